"""``focalbench.run``: trains one trial or a whole sweep, and returns what came of it."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from focalbench import console
from focalbench.api.sweep import Sweep
from focalbench.api.training import default_folder, train
from focalbench.config.load import Experiment, load_config, load_mapping
from focalbench.errors import ConfigError, InterruptedTrial, NothingFinishedError
from focalbench.launchers.session import Session, SessionOptions
from focalbench.records.reader import read_trials
from focalbench.records.state import TrialState


def run(
    config: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    device: str | None = None,
    progress: bool = True,
    fresh: bool = False,
    retry_failed: bool = False,
) -> Sweep:
    """Trains one trial, or all of a sweep, and returns what came of it.

    The same call again goes on where it stopped: what is finished is not trained anew. Nothing is printed on stdout.

    Args:
        config: path of a YAML file, or its content as a mapping, which is called ``experiment`` unless it says its
            ``name``.
        overrides: ``KEY=VALUE`` each, as in ``loss.gamma=0.5``.
        out: folder of the results; None: runs/NAME.
        device: auto, cpu, cuda or cuda:N; None: what ``run.device`` says.
        progress: show on stderr, or in a notebook below the cell, how far it is; False: silence.
        fresh: start anew; older results are set aside.
        retry_failed: train failed trials again.

    Returns:
        All trials of this configuration, failed ones with their ``error`` among them: one warning tells of these.

    Raises:
        ConfigError, DataError, StorageError: for faults found before the first trial starts.
        NothingFinishedError: when not one trial came to its end, with the reason of the first.
        KeyboardInterrupt: after ^C, when every trial at work has written its checkpoint. Outside the main thread no
            signal is heard.
    """
    experiment = _read(config, overrides, device)
    folder = Path(out) if out is not None else default_folder(experiment)
    command = _command(config, overrides, out, device)
    options = SessionOptions(experiment.config.run.device, fresh, retry_failed, command=command)
    try:
        session = train(experiment, folder, options, progress=progress)
    except InterruptedTrial as stopped:  # before the first trial started
        _end_as_the_signal_does(stopped, progress)
    if session.signum is not None:
        name = signal.Signals(session.signum).name
        _end_as_the_signal_does(InterruptedTrial(f"stopped by {name}", session.signum), progress)
    if session.ending and progress:
        console.info(session.ending)
    sweep = _sweep(session, folder)
    _tell_of_failures(sweep, session)
    return sweep


def _read(
    config: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str], device: str | None
) -> Experiment:
    settings = [overrides] if isinstance(overrides, str) else list(overrides)
    settings += [] if device is None else [f"run.device={device}"]
    if isinstance(config, Mapping):
        return load_mapping(config, settings)
    if isinstance(config, str | os.PathLike):
        return load_config(Path(config), settings)
    raise ConfigError(
        f"config: should be the path of a YAML file or a mapping of its keys, not a {type(config).__name__}"
    )


def _command(
    config: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str],
    out: str | os.PathLike[str] | None,
    device: str | None,
) -> str:
    """What trains the rest in a terminal; empty where no file holds the configuration."""
    if isinstance(config, Mapping):
        return ""
    settings = [overrides] if isinstance(overrides, str) else overrides
    words = ["focalbench", "run", os.fspath(config), *(word for setting in settings for word in ("-s", setting))]
    words += [] if out is None else ["--out", os.fspath(out)]
    words += [] if device is None else ["--device", device]
    return shlex.join(words)


def _end_as_the_signal_does(stopped: InterruptedTrial, progress: bool) -> NoReturn:
    """Hands the signal to whoever handles it in this program, now that the checkpoints are written."""
    if progress:
        console.info(f"{stopped}; the same call resumes")
    if threading.current_thread() is threading.main_thread():
        signal.raise_signal(stopped.signum)
    if stopped.signum == signal.SIGINT:
        raise KeyboardInterrupt(str(stopped))
    raise stopped


def _sweep(session: Session, folder: Path) -> Sweep:
    """The trials of this configuration, not what an earlier form of it has left."""
    records = {record.name: record for record in read_trials([folder])}
    return Sweep(tuple(records[trial.name] for trial in session.trials if trial.name in records))


def _tell_of_failures(sweep: Sweep, session: Session) -> None:
    """Warns of trials that failed; raises where nothing has finished."""
    failed = [trial for trial in sweep.trials if trial.state is TrialState.FAILED]
    if not any(trial.state in (TrialState.DONE, TrialState.STOPPED) for trial in sweep.trials):
        first = failed[0] if failed else sweep.trials[0]
        way = "retry_failed=True tries again" if failed else "the same call resumes it"
        raise NothingFinishedError(
            f"no trial has finished; {first.name}: {first.error or first.reason}; {way}", session.exit_code or 3
        )
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(sweep.trials)} trials failed, first {failed[0].name}: {failed[0].error}; "
            "retry_failed=True tries them again",
            stacklevel=3,
        )
