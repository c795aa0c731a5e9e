"""``sweep.compare``: a mapping from arms to rows that can be quoted and printed."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import focalbench as fb
from focalbench.analysis import tables
from focalbench.config.identity import IDENTITY_VERSION
from focalbench.records.sweep import SweepFolder

_ARMS = {"ce": [0.50, 0.51, 0.52, 0.50, 0.51, 0.52], "focal": [0.40, 0.42, 0.41, 0.41, 0.41, 0.43]}


@pytest.fixture
def sweep(write_arms: Callable[..., Path]) -> fb.Sweep:
    return fb.load(write_arms(_ARMS, log=[{"step": 2, "train/loss": 1.0}, {"step": 2, "val/mAP": 0.5, "x": None}]))


def test_a_mapping_from_arms_to_rows(sweep: fb.Sweep) -> None:
    comparison = sweep.compare(baseline="ce")
    assert dict(comparison) == {row.arm: row for row in comparison.rows}
    row = comparison["focal"]
    assert (row.verdict, row.n) == ("worse", 6)
    assert row.difference == pytest.approx(-0.0967, abs=1e-3)
    assert row.ci[0] < row.difference < row.ci[1] < 0
    assert math.isnan(comparison["ce"].difference)
    with pytest.raises(KeyError, match="nobody"):
        comparison["nobody"]


def test_the_verdict_is_a_sentence_to_quote(sweep: fb.Sweep) -> None:
    comparison = sweep.compare()
    assert comparison.verdict == "val/mAP against ce, paired by seed. Worse: focal (-9.67 points)."
    assert comparison.verdict in repr(comparison)
    assert "0.05" in comparison.rule


def test_each_form_is_that_of_the_tables(sweep: fb.Sweep) -> None:
    comparison = sweep.compare()
    found = comparison.found
    forms = (comparison.to_latex(), comparison.to_markdown(), comparison._repr_html_(), str(comparison))
    assert forms == (tables.latex(found), tables.markdown(found), tables.html_table(found), tables.plain_text(found))


@pytest.mark.usefixtures("extra_pandas")
def test_a_data_frame_has_a_row_an_arm_in_the_metrics_own_unit(sweep: fb.Sweep) -> None:
    frame = sweep.compare().to_dataframe().set_index("arm")
    assert frame.loc["focal", "mean"] == pytest.approx(0.4133, abs=1e-3)
    assert frame.loc["focal", "ci_low"] < frame.loc["focal", "ci_high"] < 0
    assert frame["n"].tolist() == [6, 6]


@pytest.mark.parametrize("options", [{"baseline": "cee"}, {"metric": "val/map"}])
def test_an_unknown_baseline_or_metric_comes_with_a_suggestion(sweep: fb.Sweep, options: dict[str, str]) -> None:
    with pytest.raises(fb.ConfigError, match="did you mean"):
        sweep.compare(**options)


def test_a_look_at_the_arms_is_noted_as_by_the_command(sweep: fb.Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = []
    monkeypatch.setattr("focalbench.analysis.look_record.record_look", lambda *arguments: noted.append(arguments))
    comparison = sweep.compare()
    assert noted == [(comparison.found, sweep.trials)]


@pytest.mark.usefixtures("extra_pandas")
def test_frames_of_trials_and_steps(sweep: fb.Sweep) -> None:
    trials, steps = sweep.to_dataframe(), sweep.metrics()
    assert list(trials.columns[:4]) == ["trial", "arm", "seed", "state"]
    assert trials["AP/cat"].tolist() == trials["val/mAP"].tolist() == [*_ARMS["ce"], *_ARMS["focal"]]
    assert trials["AP/dog"].isna().all()
    assert len(steps) == 12  # two lines of one step are one row
    assert steps.loc[0, ["step", "train/loss", "val/mAP"]].tolist() == [2, 1.0, 0.5]
    assert steps["x"].isna().all()


@pytest.mark.usefixtures("extra_pandas")
def test_what_the_sweep_sets_has_columns_and_trials_not_begun_have_rows(write_trial: Callable[..., Path]) -> None:
    folder = write_trial("runs/s/ce-s0-0", result={"differs": {"loss.name": "ce"}, "config_hash": "aa"})
    row = {"name": "focal-s0-0", "arm": "focal", "seed": 0, "hash": "bb", "differs": {"loss.gamma": 2}}
    (folder.parent / SweepFolder.LIST).write_text(json.dumps({"identity": IDENTITY_VERSION, "trials": [row]}))
    frame = fb.load(folder.parent).to_dataframe().set_index("arm")
    assert frame["state"].to_dict() == {"ce": "done", "focal": "new"}
    assert (frame.loc["ce", "loss.name"], frame.loc["focal", "loss.gamma"]) == ("ce", 2)
    (folder.parent / SweepFolder.LIST).write_text("{}")
    assert fb.load(folder.parent).to_dataframe()["loss.name"].tolist() == ["ce"]


def test_arms_have_their_trials_by_name(sweep: fb.Sweep) -> None:
    assert {name: [trial.seed for trial in trials] for name, trials in sweep.arms.items()} == {
        "ce": list(range(6)),
        "focal": list(range(6)),
    }
    assert repr(sweep) == "<Sweep of ce, focal: 12 done>"


def test_without_pandas_the_extra_is_named(sweep: fb.Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'focalbench\[pandas\]'") as fault:
        sweep.metrics()
    assert isinstance(fault.value, fb.FocalbenchError)


def test_no_folder_and_no_trials_are_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(fb.DataError, match="no such folder"):
        fb.load(tmp_path / "nothing")
    with pytest.raises(fb.DataError, match="no trials here"):
        fb.load(tmp_path)
