"""The time a sweep will take, told from what has finished, else from a rehearsal; nothing is invented without one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.config.sweep import Trial
from focalbench.experiment.rehearsal import START_S, Rehearsal
from focalbench.launchers.forecast import forecast
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder
from focalbench.records.trial import TrialFolder
from focalbench.storage import write_json

Write = Callable[..., Path]


def _finish(out: Path, trial: Trial, wall_s: float, **replaced: object) -> None:
    TrialFolder(out / trial.name).write_status(trial, TrialState.DONE)
    result = {"wall_s": wall_s, "train_images": 12, "device": "cpu", "val/mAP": 0.5, "seed": 0}
    write_json(out / trial.name / "result.json", result | replaced)


@pytest.fixture
def out(tmp_path: Path) -> Callable[[tuple[Trial, ...]], Path]:
    def make(trials: tuple[Trial, ...]) -> Path:
        for trial in trials:
            (tmp_path / "out" / trial.name).mkdir(parents=True)
        return tmp_path / "out"

    return make


def _trials(path: Path) -> tuple[Trial, ...]:
    return load_config(path).trials


def test_before_the_first_trial_nothing_is_known(write_config: Write, tmp_path: Path) -> None:
    found = forecast(_trials(write_config("sweep: {seeds: [0, 1]}")), SweepFolder(tmp_path / "none"))
    assert (found.num_left, found.num_known, found.seconds) == (2, 0, None)


def test_trials_that_are_left_take_as_long_as_the_finished_ones(write_config: Write, out: Callable) -> None:
    trials = _trials(write_config("sweep: {seeds: [0, 1, 2, 3, 4]}"))
    folder = out(trials)
    _finish(folder, trials[0], 50.0)
    _finish(folder, trials[1], 70.0)
    found = forecast(trials, SweepFolder(folder))
    assert (found.num_left, found.num_known, found.num_measured) == (3, 3, 2)
    assert found.seconds == pytest.approx(180)
    assert forecast(trials, SweepFolder(folder), num_slots=2).seconds == pytest.approx(120)


def test_longer_trainings_take_in_proportion(write_config: Write, out: Callable) -> None:
    # 6 steps of 4 images; 5 passes over 12 images; 12 steps.
    trials = _trials(write_config("sweep: {list: [{loss.gamma: 1}, {optim.epochs: 5}, {optim.steps: 12}]}"))
    folder = out(trials)
    _finish(folder, trials[0], 24.0)
    assert forecast(trials, SweepFolder(folder)).seconds == pytest.approx(60 + 48)


def test_a_trial_of_another_kind_is_not_guessed_at(write_config: Write, out: Callable) -> None:
    trials = _trials(write_config("sweep: {grid: {data.image_size: [64, 128]}}"))
    folder = out(trials)
    _finish(folder, trials[0], 24.0)
    found = forecast(trials, SweepFolder(folder))
    assert (found.num_left, found.num_known, found.seconds) == (1, 0, None)


def test_each_kind_without_a_finished_trial_is_rehearsed_once(write_config: Write, out: Callable) -> None:
    sweep = "sweep: {seeds: [0, 1], list: [{data.image_size: 64}, {data.image_size: 128}, {data.image_size: 96}]}"
    trials = _trials(write_config(sweep))
    folder = out(trials)
    _finish(folder, trials[0], 50.0)
    asked = []

    def rehearse(trial: Trial) -> Rehearsal:
        asked.append(trial.config.data.image_size)
        return Rehearsal(num_train=12, num_val=6, step_s=10.0, image_s=1.0)

    found = forecast(trials, SweepFolder(folder), rehearse=rehearse)
    assert asked == [128, 96]
    assert (found.num_left, found.num_known, found.num_measured, found.num_rehearsed) == (5, 5, 1, 2)
    each = START_S + 6 * 10.0 + 2 * 6 * 1.0  # two passes over 12 images in steps of 4, an evaluation after each
    assert found.seconds == pytest.approx(50 + 4 * each)
    assert found.longest == pytest.approx(each)


def test_other_data_are_another_kind_and_another_learning_rate_is_not(write_config: Write, out: Callable) -> None:
    data = "data: {name: voc, train: [2007/train], val: [2007/val]}\n"
    sweep = "sweep: {grid: {data.root: [/a, /b], optim.lr: [0.1, 0.2]}}"
    trials = _trials(write_config(sweep, text=data))
    folder = out(trials)
    _finish(folder, trials[0], 24.0)
    found = forecast(trials, SweepFolder(folder))
    assert (found.num_left, found.num_known, found.seconds) == (3, 1, pytest.approx(24))


def test_the_same_loss_goes_before_others(write_config: Write, out: Callable) -> None:
    sweep = "sweep: {seeds: [0, 1], list: [{name: ce, loss: {name: ce}}, {name: ghm, loss: {name: ghm}}]}"
    trials = _trials(write_config(sweep))
    folder = out(trials)
    _finish(folder, trials[0], 10.0)
    assert forecast(trials, SweepFolder(folder)).seconds == pytest.approx(30)
    _finish(folder, trials[2], 40.0)
    assert forecast(trials, SweepFolder(folder)).seconds == pytest.approx(10 + 40)


def test_what_an_interrupted_trial_has_done_is_not_done_again(write_config: Write, out: Callable) -> None:
    trials = _trials(write_config("sweep: {seeds: [0, 1, 2]}"))
    folder = out(trials)
    _finish(folder, trials[0], 40.0)
    TrialFolder(folder / trials[1].name).write_status(trials[1], TrialState.INTERRUPTED, step=3, steps=6)
    TrialFolder(folder / trials[2].name).write_status(trials[2], TrialState.FAILED, step=6, steps=6)
    assert forecast(trials, SweepFolder(folder)).seconds == pytest.approx(20)
    assert forecast(trials, SweepFolder(folder), retry_failed=True).num_left == 2


def test_trials_that_a_search_had_stopped_count_where_they_are_trained_on(write_config: Write, out: Callable) -> None:
    trials = _trials(write_config("sweep: {seeds: [0, 1]}"))
    folder = out(trials)
    _finish(folder, trials[0], 40.0)
    TrialFolder(folder / trials[1].name).write_status(trials[1], TrialState.STOPPED, step=3, steps=6)
    assert forecast(trials, SweepFolder(folder)).num_left == 0
    assert forecast(trials, SweepFolder(folder), with_stopped=True).seconds == pytest.approx(20)


def test_a_trial_on_a_gpu_says_nothing_of_a_cpu(write_config: Write, out: Callable) -> None:
    trials = _trials(write_config("sweep: {seeds: [0, 1, 2]}"))
    folder = out(trials)
    _finish(folder, trials[0], 30.0)
    _finish(folder, trials[1], 1.0, device="cuda:0")
    found = forecast(trials, SweepFolder(folder), device="cpu")
    assert (found.num_measured, found.seconds) == (1, pytest.approx(30))
    assert forecast(trials, SweepFolder(folder), device="cuda:1").seconds == pytest.approx(1)


def test_when_all_is_done_nothing_is_left(write_config: Write, out: Callable) -> None:
    trials = _trials(write_config())
    folder = out(trials)
    _finish(folder, trials[0], 5.0)
    found = forecast(trials, SweepFolder(folder))
    assert (found.num_left, found.seconds) == (0, 0.0)
