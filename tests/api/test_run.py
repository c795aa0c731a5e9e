"""``fb.run`` beside what it trains: configurations, faults, signals, failures. Training itself: tests/docs."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretended import finish

import focalbench as fb
from focalbench.config.load import Experiment
from focalbench.config.sweep import Trial
from focalbench.errors import InterruptedTrial
from focalbench.launchers.job import Outcome
from focalbench.launchers.session import Session, SessionOptions
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder
from focalbench.records.trial import TrialFolder

_SWEEP = {"name": "s", "data": {"name": "synthetic"}, "sweep": {"grid": {"loss.gamma": [0, np.float64(1)]}}}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Path, SessionOptions]]]:
    """Instead of training, each trial comes to one of ``states``; a signal is heard meanwhile, or before."""

    def prepare(*states: str, signum: int | None = None, before: bool = False) -> list[tuple[Path, SessionOptions]]:
        calls = []

        def train(experiment: Experiment, folder: Path, options: SessionOptions, **keywords: Any) -> Session:
            calls.append((folder, options))
            if before:
                raise InterruptedTrial("stopped", signum)
            SweepFolder(folder).open(experiment.config.name, experiment.trials)
            for trial, state in zip(experiment.trials, states, strict=True):
                _end(folder, trial, TrialState(state))
            found = {trial.name: TrialState(state) for trial, state in zip(experiment.trials, states, strict=True)}
            outcomes = {name: Outcome(state, None, 2, {}) for name, state in found.items()}
            return Session(experiment.trials, found, outcomes, signum)

        monkeypatch.setattr("focalbench.api.run.train", train)
        return calls

    return prepare


def _end(folder: Path, trial: Trial, state: TrialState) -> None:
    if state is TrialState.DONE:
        finish(folder, trial, 0.5)
    else:
        TrialFolder(folder / trial.name).write_status(trial, state, error="because of this")


def test_results_go_where_the_command_puts_them_and_the_way_on_is_kept(pretend: Callable[..., Any]) -> None:
    calls = pretend("done", "done")
    Path("a b.yaml").write_text("data: {name: synthetic}\nsweep: {grid: {loss.gamma: [0, 1]}}\n")
    sweep = fb.run("a b.yaml", overrides=["loss.alpha=0.5"], device="cpu")
    fb.run(_SWEEP, out="elsewhere", fresh=True)
    assert [trial.folder.parent for trial in sweep.trials] == [Path("runs/a_b")] * 2
    assert [folder for folder, _ in calls] == [Path("runs/a_b"), Path("elsewhere")]
    assert calls[0][1].command == "focalbench run 'a b.yaml' -s loss.alpha=0.5 --device cpu"
    assert (calls[1][1].command, calls[1][1].fresh, calls[0][1].device) == ("", True, "cpu")


def test_trials_of_another_form_of_the_sweep_are_no_part_of_it(pretend: Callable[..., Any]) -> None:
    pretend("done", "done")
    fb.run(_SWEEP)
    pretend("done")
    assert len(fb.run(_SWEEP | {"sweep": None}).trials) == 1
    assert len(fb.load("runs/s").trials) == 3


def test_a_failed_trial_warns_once_and_is_there_with_its_error(pretend: Callable[..., Any]) -> None:
    pretend("failed", "done")
    with pytest.warns(UserWarning, match="1 of 2 trials failed, first .*: because of this") as told:
        sweep = fb.run(_SWEEP)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert [(str(trial.state), trial.error) for trial in sweep.trials] == [("failed", "because of this"), ("done", "")]


def test_nothing_finished_raises_the_first_error_with_the_commands_code(pretend: Callable[..., Any]) -> None:
    pretend("failed", "failed")
    with pytest.raises(fb.NothingFinishedError, match=r"because of this; retry_failed=True") as fault:
        fb.run(_SWEEP)
    assert fault.value.exit_code == 2


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupt_is_a_keyboard_interrupt_and_says_the_way_on(
    pretend: Callable[..., Any], capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    pretend("interrupted", "new", signum=signal.SIGINT, before=before)
    with pytest.raises(KeyboardInterrupt):
        fb.run(_SWEEP)
    assert "the same call resumes" in capsys.readouterr().err


def test_sigterm_goes_to_the_programs_own_handler(pretend: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend("interrupted", "new", signum=signal.SIGTERM)
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    with pytest.raises(InterruptedTrial):
        fb.run(_SWEEP, progress=False)
    assert raised == [signal.SIGTERM]


def test_another_thread_may_call_it(pretend: Callable[..., Any]) -> None:
    pretend("done", "done")
    found: list[fb.Sweep] = []
    thread = threading.Thread(target=lambda: found.append(fb.run(_SWEEP)))
    thread.start()
    thread.join()
    assert len(found[0].trials) == 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([1], "should be the path of a YAML file or a mapping of its keys, not a list"),
        ("nothing.yaml", "nothing.yaml: no such file"),
        ({"los": {}}, "^los: unknown key; did you mean 'loss'"),
        ({"loss": {"name": "focal", "gamma": -1}}, "^loss.gamma: should be at least 0, not -1"),
        ({"sweep": {"list": [{"name": "a", "loss.gamma": -3}]}}, r"^sweep.list\[0\].loss.gamma: should be at least 0"),
        ({"sweep": {"grid": {"loss.gamma": [1, -3]}}}, r"^sweep.grid.loss.gamma\[1\]: should be at least 0"),
    ],
)
def test_a_wrong_configuration_is_named_by_its_key(config: Any, words: str) -> None:
    with pytest.raises(fb.ConfigError, match=words):
        fb.run(config)
