"""results.csv: what a sweep wrote is read as trials again; what is none is refused with file, line and reason."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.analysis.comparison import compare_trials
from focalbench.analysis.look_record import compare_and_record
from focalbench.analysis.swept_keys import swept_grids
from focalbench.errors import DataError
from focalbench.records.reader import read_trials
from focalbench.records.results_table import read_table, table_row, table_text
from focalbench.records.state import TrialState

Write = Callable[..., Path]

HEAD = "trial,arm,seed,config_hash,state,loss.gamma,val/mAP,AP/cat"


def write_table(tmp_path: Path, *lines: str, head: str = HEAD) -> Path:
    path = tmp_path / "kept.csv"
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return path


def table_of(run: Path, path: Path) -> Path:
    """The table that a sweep of these trials would have written."""
    rows = []
    for trial in read_trials([run]):
        listed = {"name": trial.name, "arm": trial.arm, "seed": trial.seed, "hash": trial.config_hash}
        listed["differs"] = {"loss.name": trial.config["loss"]["name"], "optim.lr": [1, 2]}
        rows.append(table_row(listed, trial.state, trial.result if trial.counts else None))
    path.write_text(table_text(rows), encoding="utf-8")
    return path


def test_a_table_says_the_same_as_the_trials(write_arms: Write, tmp_path: Path) -> None:
    values = {"ce": [0.5, 0.51, 0.52, 0.5, 0.53, 0.49], "focal": [0.6, 0.63, 0.61, 0.6, 0.6, 0.62]}
    run = write_arms(values)
    table = table_of(run, tmp_path / "results.csv")
    kept, found = (compare_trials(read_trials([path], tables=True), with_test_set_noise=False) for path in (table, run))
    assert [arm.values for arm in kept.arms] == [arm.values for arm in found.arms]
    assert [entry.judgement for entry in kept.comparisons] == [entry.judgement for entry in found.comparisons]
    assert kept.baseline == "ce"
    assert {trial.value("AP/cat") for arm in kept.arms for trial in arm.arm.trials.values()} == {
        trial.value("AP/cat") for arm in found.arms for trial in arm.arm.trials.values()
    }


def test_cells_become_what_they_were(tmp_path: Path) -> None:
    head = f"{HEAD},loss.alpha,loss.match_scale,step,protocol"
    path = write_table(tmp_path, "a-s3,a,3,00ff00ff,done,2.0,0.25,,auto,True,300,voc07", head=head)
    (row,) = read_table(path)
    assert (row.seed, row.config_hash, row.result.step, row.result.protocol) == (3, "00ff00ff", 300, "voc07")
    assert row.settings == {"loss.gamma": 2.0, "loss.alpha": "auto", "loss.match_scale": True}
    (trial,) = read_trials([path], tables=True)
    assert (trial.name, trial.value("mAP"), trial.value("AP/cat")) == ("a-s3", 0.25, None)


def test_trials_that_were_not_done_do_not_count(tmp_path: Path) -> None:
    done, failed = "a-s0,a,0,,done,2,0.5,0.5", "a-s1,a,1,,failed,2,,"
    trials = read_trials([write_table(tmp_path, done, failed)], tables=True)
    assert [trial.counts for trial in trials] == [True, False]
    assert trials[1].reason == "failed"


def test_arms_that_the_table_cannot_tell_apart_stay_apart(tmp_path: Path) -> None:
    """A schedule of gamma is a mapping, which the table has no cell for."""
    lines = [f"{arm}-s{seed},{arm},{seed},,done,,0.{5 + seed},0.5" for arm in ("line", "steps") for seed in (0, 1)]
    found = compare_trials(read_trials([write_table(tmp_path, *lines)], tables=True))
    assert [result.arm.label for result in found.arms] == ["line", "steps"]


def test_a_key_that_a_table_lists_is_drawn_as_a_line_of_all_its_arms(tmp_path: Path) -> None:
    lines = [f"g{gamma}-s{seed},g{gamma},{seed},,done,{gamma},0.{5 + seed},0.5" for gamma in (1, 2) for seed in (0, 1)]
    found = compare_trials(read_trials([write_table(tmp_path, *lines)], tables=True))
    (grid,) = swept_grids(found.arms)
    assert (grid.title, grid.keys, grid.form) == ("all arms", ("loss.gamma",), "line")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a,a,0,,done,2", "line 2: not as many cells"),
        ("a,a,0,,done,2,0.5,0.5,9", "line 2: not as many cells"),
        ("a,,0,,done,2,0.5,0.5", "line 2: arm is empty"),
        ("a,a,-1,,done,2,0.5,0.5", "line 2: seed '-1' is not"),
        ("a,a,0,,lost,2,0.5,0.5", "line 2: state 'lost' is none of new, running"),
        ("a,a,0,,done,2,50.1,0.5", "line 2: val/mAP '50.1' is not a number from 0 to 1"),
        ("a,a,0,,done,2,nan,0.5", "line 2: val/mAP 'nan' is not a number from 0 to 1"),
        ("a,a,0,,done,2,0.5,x", "line 2: AP/cat 'x' is not a number from 0 to 1"),
        ("a,a,0,,done,2,0_1,0.5", "line 2: val/mAP '0_1' is not a number from 0 to 1"),
        (f"a,a,{'9' * 5000},,done,2,0.5,0.5", "line 2: seed '9999999999.*999[.]{3}' is not a whole number"),
        ("a,a,\u0663,,done,2,0.5,0.5", "line 2: seed '.' is not a whole number"),
        ("../a,a,0,,done,2,0.5,0.5", "line 2: trial '../a' is not the name of a folder"),
        ("..,a,0,,done,2,0.5,0.5", "line 2: trial '..' is not the name of a folder"),
        ("a,\x1b[2J,0,,done,2,0.5,0.5", "line 2: arm .* holds control characters"),
        ("a,a,0,,done,2,0.5,0.5\nb,a,0,,done,2,0.6,0.5", "line 3: seed 0 of a for the second time"),
    ],
)
def test_a_wrong_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"kept\.csv: {words}"):
        read_table(write_table(tmp_path, line))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column trial, seed, state, val/mAP; give a table that focalbench wrote"):
        read_table(write_table(tmp_path, "ce,1", head="arm,n"))
    with pytest.raises(DataError, match="two columns 'arm'"):
        read_table(write_table(tmp_path, head=f"{HEAD},arm"))
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a table of results"):
        read_table(path)
    with pytest.raises(DataError, match="no trials here"):
        read_trials([write_table(tmp_path)], tables=True)
    with pytest.raises(DataError, match=r"kept\.csv: is a file; give run folders \(runs/NAME\) or trial folders$"):
        read_trials([tmp_path / "kept.csv"])  # such as `focalbench clean`, which a table tells nothing
    with pytest.raises(DataError, match="no such file or folder"):
        read_trials([tmp_path / "none.csv"], tables=True)


def test_a_byte_order_mark_and_dos_lines_are_read_over(tmp_path: Path) -> None:
    path = write_table(tmp_path, "a-s0,a,0,,done,2,0.25,0.5")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (row,) = read_table(path)
    assert (row.trial, row.result.mean_ap) == ("a-s0", 0.25)


def test_nothing_but_the_table_is_read_or_written(write_arms: Write, tmp_path: Path) -> None:
    """A table may be anybody's: the run that it lies in is not its."""
    run = write_arms({"ce": [0.5] * 6, "focal": [0.6] * 6}, log=[{"step": 1, "train/loss": 2.0}])
    plan = {"seeds": [0, 1, 2, 3, 4, 5], "margin": 0.01}
    (run / "sweep.json").write_text(json.dumps({"identity": 3, "trials": [], "plan": plan}))
    before = (run / "sweep.json").read_bytes()
    trials = read_trials([table_of(run, run / "results.csv")], tables=True)
    assert trials[0].folder.is_dir()
    assert trials[0].value("train/loss") is None
    compare_and_record(trials)
    assert (run / "sweep.json").read_bytes() == before


def test_states_are_those_of_trials() -> None:
    listed = {"name": "a-s0", "arm": "a", "seed": 0, "hash": "00000000", "differs": {}}
    assert table_row(listed, TrialState.RUNNING, None)["state"] == "running"
