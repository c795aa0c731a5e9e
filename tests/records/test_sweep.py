"""The folder of a sweep: what is done stays done when it grows, moves or is renamed."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.config.sweep import Trial
from focalbench.errors import BusyError, DataError, StorageError
from focalbench.records.reader import read_trials
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder
from focalbench.records.sweep_lock import hold_sweep
from focalbench.records.trial import TrialFolder
from focalbench.storage import write_json


def _trials(path: Path) -> tuple[Trial, ...]:
    return load_config(path).trials


def _finish(out: Path, trial: Trial, mean_ap: float | None) -> None:
    folder = out / trial.name
    folder.mkdir(parents=True)
    result = {
        "trial": trial.name,
        "arm": trial.arm,
        "seed": trial.seed,
        "val/mAP": mean_ap,
        "val/mAP_best": mean_ap,
        "step": 6,
    }
    result |= {"protocol": "voc07", "AP": {"cat": mean_ap, "dog": None}, "wall_s": 1}
    write_json(folder / "result.json", result)
    TrialFolder(folder).write_status(trial, TrialState.DONE)


def test_results_list_every_trial_in_order_without_times(write_config: Callable[..., Path], tmp_path: Path) -> None:
    trials = _trials(write_config("sweep: {seeds: [1, 0], grid: {loss.gamma: [2, 1]}}"))
    out = tmp_path / "out"
    SweepFolder(out).open("tiny", trials)
    _finish(out, trials[2], 0.5)
    SweepFolder(out).write_results()
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == [trial.name for trial in trials]
    assert [row["state"] for row in rows] == ["new", "new", "done", "new"]
    assert (rows[2]["val/mAP"], rows[2]["AP/cat"], rows[2]["AP/dog"]) == ("0.5", "0.5", "")
    assert not any("wall" in column or "images_per_s" in column for column in rows[0])


def test_a_grown_sweep_keeps_finished_trials_under_their_new_name(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = _trials(write_config("sweep: {seeds: [0], grid: {loss.gamma: [1, 2]}}"))
    SweepFolder(out).open("tiny", before)
    _finish(out, before[0], 0.25)
    after = _trials(write_config("sweep: {seeds: [0, 1], grid: {loss.gamma: [1, 2], loss.alpha: [0.25, 0.5]}}"))
    SweepFolder(out).open("tiny", after)
    same = next(trial for trial in after if trial.hash == before[0].hash)
    assert same.name != before[0].name
    assert TrialFolder(out / same.name).state() == "done"
    assert json.loads((out / same.name / "result.json").read_text())["arm"] == same.arm
    assert {row["hash"] for row in SweepFolder(out).listed()} == {trial.hash for trial in after}


def test_trials_that_were_renamed_or_moved_by_hand_stay_done(write_config: Callable[..., Path], tmp_path: Path) -> None:
    trials = _trials(write_config("sweep: {grid: {loss.gamma: [1, 2]}}"))
    SweepFolder(tmp_path / "o").open("tiny", trials)
    _finish(tmp_path / "o", trials[0], 0.5)
    (tmp_path / "o" / trials[0].name).rename(tmp_path / "o" / "the good one")
    moved = (tmp_path / "o").rename(tmp_path / "elsewhere")
    SweepFolder(moved).open("tiny", trials)
    assert [TrialFolder(moved / trial.name).state() for trial in trials] == ["done", "new"]
    SweepFolder(moved).write_results()
    assert (moved / "results.csv").read_text().count(",done,") == 1


def test_no_trial_is_renamed_under_another_process(write_config: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = _trials(write_config("sweep: {grid: {loss.gamma: [1, 2]}}"))
    SweepFolder(out).open("tiny", before)
    _finish(out, before[0], 0.25)
    listed = (out / "sweep.json").read_text()
    after = _trials(write_config("sweep: {grid: {loss.gamma: [1, 2], loss.alpha: [0.25, 0.5]}}"))
    with pytest.raises(BusyError, match="has to be renamed"):
        SweepFolder(out).open("tiny", after, alone=False)
    assert TrialFolder(out / before[0].name).state() == "done"
    assert (out / "sweep.json").read_text() == listed
    SweepFolder(out).open("tiny", before, alone=False)  # more seeds or the same again rename nothing


def test_trials_no_longer_asked_for_stay_listed(write_config: Callable[..., Path], tmp_path: Path) -> None:
    SweepFolder(tmp_path / "o").open("tiny", _trials(write_config("sweep: {grid: {loss.gamma: [1, 2]}}")))
    SweepFolder(tmp_path / "o").open("tiny", _trials(write_config("sweep: {grid: {loss.gamma: [2, 3]}}")))
    assert len(SweepFolder(tmp_path / "o").listed()) == 3


def test_the_list_says_what_goes_on_with_it(write_config: Callable[..., Path], tmp_path: Path) -> None:
    trials, out = _trials(write_config()), tmp_path / "out"
    assert SweepFolder(out).command() == ""
    SweepFolder(out).open("tiny", trials, command="focalbench run tiny.yaml -s 'optim.lr=1e-3'")
    SweepFolder(out).open("tiny", trials)  # a search lists its proposals without
    assert SweepFolder(out).command() == "focalbench run tiny.yaml -s 'optim.lr=1e-3'"
    SweepFolder(out).open("tiny", trials, command="focalbench run tiny.yaml")
    assert SweepFolder(out).command() == "focalbench run tiny.yaml"


def test_fresh_sets_the_old_folder_aside(write_config: Callable[..., Path], tmp_path: Path) -> None:
    trials = _trials(write_config())
    SweepFolder(tmp_path / "o").open("tiny", trials)
    _finish(tmp_path / "o", trials[0], 0.5)
    with hold_sweep(tmp_path / "o", fresh=True):
        SweepFolder(tmp_path / "o").open("tiny", trials)
    assert TrialFolder(tmp_path / "o" / trials[0].name).state() == "new"
    (aside,) = tmp_path.glob("o.*")
    assert TrialFolder(aside / trials[0].name).state() == "done"


def test_done_without_its_result_is_to_be_done_again(write_config: Callable[..., Path], tmp_path: Path) -> None:
    (trial,) = _trials(write_config())
    _finish(tmp_path, trial, 0.5)
    (tmp_path / trial.name / "result.json").unlink()
    assert TrialFolder(tmp_path / trial.name).state() == "unreadable"


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_result_is_made_again(write_config: Callable[..., Path], tmp_path: Path, content: str) -> None:
    trials = _trials(write_config())
    SweepFolder(tmp_path).open("tiny", trials)
    _finish(tmp_path, trials[0], 0.5)
    (tmp_path / trials[0].name / "result.json").write_text(content)
    assert TrialFolder(tmp_path / trials[0].name).state() == "unreadable"
    SweepFolder(tmp_path).write_results()
    assert (tmp_path / "results.csv").read_text().endswith(",unreadable\n")


def test_a_result_of_another_version_leaves_cells_empty(write_config: Callable[..., Path], tmp_path: Path) -> None:
    trials = _trials(write_config())
    SweepFolder(tmp_path).open("tiny", trials)
    _finish(tmp_path, trials[0], 0.5)
    write_json(tmp_path / trials[0].name / "result.json", {"val/mAP": 0.25, "AP": [0.25]})
    SweepFolder(tmp_path).write_results()
    (row,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert (row["state"], row["val/mAP"], row["step"]) == ("done", "0.25", "")


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_status_is_named_with_the_way_out(
    write_config: Callable[..., Path], tmp_path: Path, content: str
) -> None:
    (trial,) = _trials(write_config())
    _finish(tmp_path, trial, 0.5)
    (tmp_path / trial.name / "status.json").write_text(content)
    with pytest.raises(DataError, match=r"status\.json: damaged.*delete this file"):
        TrialFolder(tmp_path / trial.name).state()


def test_a_file_in_the_place_of_the_folder_is_named(write_config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "o").write_text("mine")
    with pytest.raises(StorageError, match="--out"):
        SweepFolder(tmp_path / "o").open("tiny", _trials(write_config()))
    assert (tmp_path / "o").read_text() == "mine"


@pytest.mark.parametrize("content", ["[]", "{}", '{"trials": [1]}', '{"trials": [{"hash": "0badcafe"}]}', "{"])
def test_a_foreign_sweep_file_is_refused(write_config: Callable[..., Path], tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(DataError, match=r"sweep\.json"):
        SweepFolder(tmp_path).open("tiny", _trials(write_config()))


def test_the_folder_of_an_older_version_is_read_and_not_trained_into(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    trials = _trials(write_config())
    SweepFolder(tmp_path).open("tiny", trials)
    _finish(tmp_path, trials[0], 0.5)
    document = json.loads((tmp_path / "sweep.json").read_text())
    del document["identity"]  # version 0.1.0 wrote none, and hashed the place of the data too
    write_json(tmp_path / "sweep.json", document)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(DataError, match=r"sweep\.json: .* another version .*--out.*--fresh") as refused:
        SweepFolder(tmp_path).open("tiny", trials)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    (found,) = read_trials([tmp_path])
    assert (found.state, found.value("mAP")) == ("done", 0.5)


def test_unknown_files_are_left_alone(write_config: Callable[..., Path], tmp_path: Path) -> None:
    trials = _trials(write_config())
    (tmp_path / trials[0].name).mkdir()
    mine = [tmp_path / "notes.md", tmp_path / trials[0].name / "notes.md"]
    for path in mine:
        path.write_text("mine")
    SweepFolder(tmp_path).open("tiny", trials)
    SweepFolder(tmp_path).write_results()
    assert [path.read_text() for path in mine] == ["mine", "mine"]
