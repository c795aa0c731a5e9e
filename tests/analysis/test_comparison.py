"""Comparisons of run folders: what is said, and above all what is not said."""

import datetime
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focalbench.analysis.comparison import NOT_COMPARABLE, Comparison, compare_trials, metric_direction
from focalbench.analysis.statistics import paired_difference
from focalbench.analysis.swept_keys import swept_grids
from focalbench.errors import ConfigError, DataError
from focalbench.records.reader import read_trials

Write = Callable[..., Any]
CE = [0.700, 0.705, 0.695, 0.702, 0.698, 0.701]
FOCAL = [0.720, 0.722, 0.719, 0.723, 0.716, 0.724]
SAME = [0.701, 0.704, 0.697, 0.701, 0.696, 0.703]


def compared(*paths: Path, **keywords: Any) -> Comparison:
    return compare_trials(read_trials(paths), **keywords)


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {entry.arm: entry.verdict for entry in comparison.comparisons}


def test_figures_and_words(write_arms: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL, "same": SAME, "down": [v - 0.02 for v in CE]})
    comparison = compared(run, with_test_set_noise=False)
    assert comparison.baseline == "ce"
    assert [result.arm.label for result in comparison.arms] == ["ce", "focal", "same", "down"]
    assert verdicts(comparison) == {"focal": "better", "same": "no difference shown", "down": "worse"}
    focal = comparison.comparisons[0]
    assert focal.paired == paired_difference(FOCAL, CE, num_comparisons=3)
    assert focal.p_corrected == pytest.approx(2 * focal.paired.p_t)  # second smallest of three
    assert comparison.arms[1].summary.mean == pytest.approx(np.mean(FOCAL))
    assert comparison.arms[1].summary.sd == pytest.approx(np.std(FOCAL, ddof=1))
    assert comparison.warnings == ()


def test_the_document_has_the_agreed_shape(write_arms: Write) -> None:
    document = compared(write_arms({"ce": CE, "focal": FOCAL}), with_test_set_noise=False).as_document()
    assert document["baseline"] == "ce"
    assert document["metric"] == "val/mAP"
    assert document["arms"][0] | {"trials": []} == {
        "arm": "ce", "n": 6, "mean": pytest.approx(np.mean(CE)), "sd": pytest.approx(np.std(CE, ddof=1)),
        "seeds": [0, 1, 2, 3, 4, 5], "values": CE, "loss": "ce", "trials": [],
    }  # fmt: skip
    entry = document["comparisons"][0]
    assert entry["arm"] == "focal"
    assert entry["n"] == 6
    assert entry["verdict"] == "better"
    assert entry["ci"][0] < entry["difference"] < entry["ci"][1]
    assert entry["p_exact"] == entry["smallest_p_exact"] == 2 / 64
    assert document["unfinished"] == document["warnings"] == []
    json.dumps(document)


@pytest.mark.parametrize(("n", "words"), [(1, "one seed: no claim"), (3, "not enough seeds"), (5, "not enough seeds")])
def test_few_seeds_make_no_claim(write_arms: Write, n: int, words: str) -> None:
    comparison = compared(write_arms({"ce": CE[:n], "focal": FOCAL[:n]}))
    assert verdicts(comparison) == {"focal": words}
    assert comparison.comparisons[0].paired.difference == pytest.approx(np.mean(np.subtract(FOCAL, CE)[:n]))


def test_baseline_is_asked_for_or_plain_cross_entropy_or_the_first(write_trial: Write, write_arms: Write) -> None:
    run = write_arms({"focal": FOCAL, "ce": CE})
    assert compared(run).baseline == "ce"
    swapped = compared(run, baseline="focal")
    assert verdicts(swapped) == {"ce": "worse"}
    with pytest.raises(ConfigError, match="did you mean 'focal'"):
        compared(run, baseline="focall")
    named = [
        write_trial(f"runs/n/{i}", arm=arm, loss={"name": arm[:2], "i": i}) for i, arm in enumerate(["xx", "ce-plain"])
    ]
    assert compared(*named).baseline == "ce-plain"
    others = [write_trial(f"runs/o/{i}", arm=arm, loss={"name": arm}) for i, arm in enumerate(["b", "a"])]
    assert compared(*others).baseline == "b"
    # experiments/yolov2_focal.yaml: softmax cross entropy is plain too
    losses = [("focal", "focal"), ("darknet", "softmax_ce"), ("ce-objectness", "ce")]
    yolo = [write_trial(f"runs/y/{i}", arm=arm, loss={"name": name}) for i, (arm, name) in enumerate(losses)]
    assert compared(*yolo).baseline == "darknet"


def test_one_arm_has_nothing_to_be_compared_with(write_arms: Write) -> None:
    comparison = compared(write_arms({"focal": FOCAL}))
    assert comparison.baseline is None
    assert comparison.comparisons == ()


def test_only_shared_seeds_are_paired(write_arms: Write, write_trial: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL[:5]})
    write_trial("runs/test/more", arm="focal", seed=9, value=0.9, loss={"name": "focal", "label": 1})
    comparison = compared(run)
    entry = comparison.comparisons[0]
    assert entry.seeds == (0, 1, 2, 3, 4)
    assert entry.verdict == "not enough seeds"
    assert comparison.warnings[0] == "focal: seeds not in both arms, and left out of the difference: 5, 9"


def test_arms_without_a_common_seed_are_not_compared(write_trial: Write, tmp_path: Path) -> None:
    for seed in range(6):
        write_trial(f"runs/a/ce{seed}", arm="ce", seed=seed)
        write_trial(f"runs/a/focal{seed}", arm="focal", seed=seed + 10)
    entry = compared(tmp_path).comparisons[0]
    assert entry.verdict == "not comparable"
    assert entry.not_comparable == ("seeds (10, 11, 12, 13, 14, 15 against 0, 1, 2, 3, 4, 5)",)
    assert entry.paired is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"result": {"data_fingerprint": ["aa", "cc"]}}, "data_fingerprint (aa, cc against aa, bb)"),
        ({"result": {"protocol": "voc12"}}, "protocol (voc12 against voc07)"),
        ({"result": {"split": ["2012/val"]}}, "split (2012/val against 2007/test)"),
        ({"result": {"split": ["x" * 60]}}, f"split ({'x' * 60} against 2007/test)"),
        ({"result": {"split": ["x" * 61]}}, f"split ({'x' * 57}... against 2007/test)"),
        ({"result": {"classes": ["cat"]}}, "classes (cat against cat, dog)"),
        (
            {"result": {"steps": 75}, "settings": {"optim": {"epochs": 3, "batch_size": 4}}},
            "optim.epochs (3 against 2)",
        ),
        ({"result": {"steps": 80}}, "images trained on (320.0 against 200.0)"),
        (
            {"settings": {"eval": {"score_thresh": 0.01, "nms_thresh": 0.5}}},
            "eval.score_thresh (0.01 against 0.05)",
        ),
    ],
)  # fmt: skip
def test_what_is_not_comparable_is_named(write_trial: Write, tmp_path: Path, change: dict, words: str) -> None:
    for seed in range(6):
        write_trial(f"runs/a/ce{seed}", arm="ce", seed=seed, value=CE[seed])
        write_trial(f"runs/a/focal{seed}", arm="focal", seed=seed, value=FOCAL[seed], **change)
        write_trial(f"runs/a/good{seed}", arm="good", seed=seed, value=FOCAL[seed], loss={"name": "ghm"})
    comparison = compared(tmp_path)
    entry = next(entry for entry in comparison.comparisons if entry.arm == "focal")
    assert entry.verdict == "not comparable"
    assert words in entry.not_comparable
    assert verdicts(comparison)["good"] == "better"


def test_another_batch_size_for_the_same_images_is_comparable(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/1", arm="ce")
    optim = {"epochs": 2, "batch_size": 8}
    write_trial("runs/a/2", arm="big batch", result={"steps": 25}, settings={"optim": optim})
    assert [entry.verdict for entry in compared(tmp_path).comparisons] == ["one seed: no claim"]


def test_moved_data_are_the_same_data(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/1", seed=0)
    write_trial("runs/b/1", seed=1, settings={"data": {"name": "voc", "root": "/elsewhere", "cache": "ram"}})
    comparison = compared(tmp_path)
    assert [result.arm.label for result in comparison.arms] == ["ce"]
    assert comparison.arms[0].summary.n == 2


def test_one_name_for_two_configurations_is_two_arms(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/1", arm="focal", loss={"name": "focal", "gamma": 1.0})
    write_trial("runs/b/1", arm="focal", loss={"name": "focal", "gamma": 2.0})
    write_trial("runs/b/2", arm="ce", loss={"name": "ce"})
    comparison = compared(tmp_path)
    assert {result.arm.label for result in comparison.arms} == {
        "focal (loss.gamma=1.0)",
        "focal (loss.gamma=2.0)",
        "ce",
    }
    with pytest.raises(ConfigError, match=r"several arms have this name: focal \(loss.gamma=1.0\)"):
        compared(tmp_path, baseline="focal")


def test_one_configuration_with_contradicting_results_is_not_joined(write_trial: Write, tmp_path: Path) -> None:
    for seed in range(6):
        write_trial(f"runs/a/a{seed}", arm="a", seed=seed, value=CE[seed], loss={"name": "focal"})
        write_trial(f"runs/a/b{seed}", arm="b", seed=seed, value=FOCAL[seed], loss={"name": "focal"})
    comparison = compared(tmp_path)
    assert verdicts(comparison) == {"b": "better"}
    assert any("one configuration but different results" in warning for warning in comparison.warnings)


def test_a_seed_that_occurs_twice_is_counted_once(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/1", value=0.5)
    write_trial("runs/copy/1", value=0.5)
    write_trial("runs/other/1", value=0.6)
    comparison = compared(tmp_path)
    assert comparison.arms[0].values == {0: 0.5}
    texts = " ".join(comparison.warnings)
    assert "has the same mAP" in texts
    assert "has another mAP" in texts


def test_arms_stopped_early_are_marked_and_none_of_their_seeds_counts(write_arms: Write, write_trial: Write) -> None:
    run = write_arms({"ce": [0.5, 0.6], "good": [0.6, 0.7], "mixed": [0.9, 0.9]})
    reason = {"state": "stopped", "step": 4, "steps": 10, "error": "by sweep.search, with all seeds of its arm"}
    for seed in (0, 1):
        path = write_trial(f"runs/test/bad-s{seed}-00000000", arm="bad", seed=seed, status={**reason, "arm": "bad"})
        (path / "result.json").unlink()
    last = sorted(run.glob("*-mixed-s1-*"))[0]
    (last / "result.json").unlink()
    (last / "status.json").write_text(json.dumps({**reason, "arm": "mixed", "seed": 1}))
    comparison = compared(run)
    assert [result.arm.label for result in comparison.arms] == ["ce", "good"]
    found = {entry.arm: entry for entry in comparison.stopped}
    assert {arm: entry.verdict for arm, entry in found.items()} == {"bad": NOT_COMPARABLE, "mixed": NOT_COMPARABLE}
    assert found["bad"].seeds == found["mixed"].seeds == (0, 1)
    assert found["bad"].not_comparable == ("stopped at step 4 of 10: by sweep.search, with all seeds of its arm",)
    assert len(comparison.unfinished) == 4
    assert verdicts(comparison)["bad"] == NOT_COMPARABLE


def test_an_arm_stopped_in_one_sweep_and_finished_in_another_counts_there(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/ce", arm="ce")
    write_trial("runs/a/x", arm="x")
    path = write_trial("runs/b/x", arm="x", status={"state": "stopped"})
    (path / "result.json").unlink()
    comparison = compared(tmp_path / "runs")
    assert [result.arm.label for result in comparison.arms] == ["ce", "x"]
    assert [entry.arm for entry in comparison.stopped] == ["x (stopped)"]


def test_trials_that_did_not_finish_are_listed(write_arms: Write, write_trial: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL})
    write_trial("runs/test/bad", arm="focal", seed=7, status={"state": "failed", "step": 3, "error": "diverged"})
    comparison = compared(run)
    assert [(trial.arm, trial.seed, trial.reason) for trial in comparison.unfinished] == [
        ("focal", 7, "failed at step 3: diverged")
    ]
    assert verdicts(comparison) == {"focal": "better"}
    assert comparison.as_document()["unfinished"][0]["state"] == "failed"


def test_nothing_finished_is_an_error_that_lists_the_reasons(write_trial: Write, tmp_path: Path) -> None:
    for seed in range(15):
        write_trial(f"runs/a/{seed:02d}", seed=seed, status={"state": "running", "step": seed})
    with pytest.raises(DataError, match="no finished trial among 15") as caught:
        compared(tmp_path)
    assert "running at step 3" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 20


def test_undefined_metrics_are_left_out_and_said(write_arms: Write) -> None:
    comparison = compared(write_arms({"ce": [*CE, 0.7], "focal": [*FOCAL, None]}))
    assert verdicts(comparison) == {"focal": "better"}
    assert any("undefined (NaN) or missing for seed 6" in warning for warning in comparison.warnings)


def test_an_arm_that_is_undefined_throughout(write_arms: Write) -> None:
    comparison = compared(write_arms({"ce": CE, "broken": [None] * 6}))
    assert verdicts(comparison) == {"broken": "not comparable"}
    assert math.isnan(comparison.arms[1].summary.mean)
    with pytest.raises(ConfigError, match="no finished trial with the metric"):
        compared(comparison.arms[1].arm.trials[0].folder.parent, baseline="broken")


def test_metrics_are_known_by_name_and_unknown_ones_get_a_suggestion(write_arms: Write) -> None:
    log = [{"step": 10, "train/loss": 1.0}]
    run = write_arms({"ce": CE, "focal": FOCAL}, log=log)
    assert compared(run, metric="mAP").metric == "val/mAP"
    assert verdicts(compared(run, metric="AP/cat")) == {"focal": "better"}
    assert compared(run, metric="train/loss").direction == "none"
    assert verdicts(compared(run, metric="time")) == {"focal": "no difference shown"}
    with pytest.raises(DataError, match="undefined"):
        compared(run, metric="AP/dog")
    with pytest.raises(ConfigError, match="did you mean 'AP/cat'"):
        compared(run, metric="AP/cats")


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("val/mAP", "higher"), ("AP/loss", "higher"), ("train/loss", "none"), ("wall_s", "lower"),
     ("images_per_s", "higher"), ("num_parameters", "none"), ("train/lr", "none")],
)  # fmt: skip
def test_directions(metric: str, direction: str) -> None:
    assert metric_direction(metric) == direction


def test_circumstances_are_warned_of(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/1", arm="ce", result={"precision": "float32", "device": "cpu", "data_fingerprint": None})
    write_trial("runs/a/2", arm="focal", result={"precision": "bfloat16", "device": "cuda:0", "lr_scale": 0.5})
    texts = " | ".join(compared(tmp_path).warnings)
    assert "different numeric precision: bfloat16, float32" in texts
    assert "different kinds of device: cpu, cuda" in texts
    assert "focal: diverged and went on at a lower learning rate: seed 0" in texts
    assert "data_fingerprint is not known for ce" in texts


def test_swept_numbers_form_lines_and_grids(write_trial: Write, tmp_path: Path) -> None:
    number = 0
    for match in (False, True):
        for gamma in (2.0, 0.5):
            for alpha in (0.25, 0.5):
                loss = {"name": "focal", "gamma": gamma, "alpha": alpha, "match_scale": match}
                write_trial(f"runs/a/{(number := number + 1)}", arm=f"f{number}", value=gamma + alpha, loss=loss)
    for alpha in (0.1, 0.9):
        write_trial(f"runs/a/b{alpha}", arm=f"balanced {alpha}", loss={"name": "balanced_ce", "alpha": alpha})
    write_trial("runs/a/ce")
    grids = swept_grids(compared(tmp_path).arms)
    assert [(grid.title, grid.keys) for grid in grids] == [
        ("focal, loss.match_scale=false", ("loss.alpha", "loss.gamma")),
        ("focal, loss.match_scale=true", ("loss.alpha", "loss.gamma")),
        ("balanced_ce", ("loss.alpha",)),
    ]
    assert grids[0].axis(1) == [0.5, 2.0]
    assert grids[0].cells[(0.25, 2.0)].values == {0: 2.25}
    assert [grid.form for grid in grids] == ["map", "map", "line"]


def test_random_draws_fill_no_grid(write_trial: Write, tmp_path: Path) -> None:
    for draw in range(5):
        write_trial(f"runs/a/{draw}", arm=f"{draw}", loss={"name": "focal", "gamma": draw * 0.3, "alpha": draw * 0.1})
    (grid,) = swept_grids(compared(tmp_path).arms)
    assert grid.form == "sparse"


def test_two_keys_changed_together_are_a_line_along_the_one_that_does_not_repeat(
    write_trial: Write, tmp_path: Path
) -> None:
    """experiments/table1b_gamma.yaml: each gamma with one alpha."""
    for gamma, alpha in ((0.0, 0.75), (0.1, 0.75), (0.5, 0.5), (1.0, 0.25), (2.0, 0.25)):
        loss = {"name": "focal", "gamma": gamma, "alpha": alpha}
        write_trial(f"runs/a/{gamma}", arm=f"gamma={gamma}", value=gamma / 10, loss=loss)
    (grid,) = swept_grids(compared(tmp_path).arms)
    assert (grid.form, grid.line_keys) == ("line", ("loss.gamma", "loss.alpha"))
    assert list(grid.line) == [(0.0, 0.75), (0.1, 0.75), (0.5, 0.5), (1.0, 0.25), (2.0, 0.25)]
    assert [result.values[0] for result in grid.line.values()] == [0.0, 0.01, 0.05, 0.1, 0.2]


def test_arms_that_may_not_be_compared_share_no_line(write_trial: Write, tmp_path: Path) -> None:
    for data in ("aa", "bb"):
        for gamma in (0.5, 1.0, 2.0):
            loss = {"name": "focal", "gamma": gamma, "alpha": 0.25}
            result = {"data_fingerprint": [data, data]}
            write_trial(f"runs/{data}/{gamma}", arm=f"{data}{gamma}", loss=loss, result=result)
    other_length = {"name": "focal", "gamma": 5.0, "alpha": 0.25}
    write_trial("runs/long", arm="long", loss=other_length, result={"steps": 500})
    grids = swept_grids(compared(tmp_path, baseline="aa0.5").arms)
    assert [[result.arm.label for result in grid.cells.values()] for grid in grids] == [
        ["aa0.5", "aa1.0", "aa2.0"],
        ["bb0.5", "bb1.0", "bb2.0"],
    ]
    assert 'data_fingerprint=["bb", "bb"]' in grids[1].title


@pytest.mark.parametrize("odd", ["auto", None, [0.1, 0.2]])
def test_a_value_that_is_no_number_stands_beside_the_line(write_trial: Write, tmp_path: Path, odd: Any) -> None:
    for number, alpha in enumerate((0.1, 0.5, odd, 0.9)):
        write_trial(f"runs/{number}", arm=f"a{number}", loss={"name": "balanced_ce", "alpha": alpha})
    (grid,) = swept_grids(compared(tmp_path).arms)
    assert (grid.title, grid.keys, list(grid.cells)) == ("balanced_ce", ("loss.alpha",), [(0.1,), (0.5,), (0.9,)])


def test_what_json_has_no_form_for_still_has_a_title(write_trial: Write, tmp_path: Path) -> None:
    for number, gamma in enumerate((0.5, 1.0, 0.5, 1.0)):
        loss = {"name": "focal", "gamma": gamma, "since": datetime.date(2026, 1, 1 + number // 2)}
        write_trial(f"runs/{number}", arm=f"a{number}", loss=loss)
    grids = swept_grids(compared(tmp_path).arms)
    assert [grid.title for grid in grids] == ['focal, loss.since="2026-01-01"', 'focal, loss.since="2026-01-02"']


def test_test_set_noise_is_that_of_the_difference(write_arms: Write, write_detections: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL, "same": SAME})
    for trial in read_trials([run]):
        write_detections(trial.folder, found=list(range(20)) if trial.arm in ("ce", "same") else list(range(10, 40)))
    noise = {entry.arm: entry.noise for entry in compared(run).comparisons}
    assert noise["same"].sd == 0.0  # the same detections: no test set could tell the arms apart
    assert noise["focal"].ci[0] < 30 / 40 - 20 / 40 < noise["focal"].ci[1]
    # found by focal only: 20 of 40 images, by ce only: 10; the difference of the shares has variance (.75 - .25^2) / 40
    assert noise["focal"].sd == pytest.approx(math.sqrt((0.75 - 0.25**2) / 40), rel=0.2)
    assert noise["focal"].num_images == 40
    per_class = compared(run, metric="AP/cat").comparisons[0].noise
    assert per_class.sd == pytest.approx(noise["focal"].sd)
    assert compared(run, metric="time").comparisons[0].noise is None
    assert compared(run, with_test_set_noise=False).comparisons[0].noise is None


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "detections.npz is missing"),
        ("torn", "cannot be read"),
        ("other", "belongs to another test set"),
        ("nan", "not finite"),
        ("no list", "image_ids is no list of names"),
        ("empty", "image_ids is no list of names"),
    ],
)
def test_test_set_noise_says_why_it_is_missing(
    write_arms: Write, write_detections: Write, fault: str, words: str
) -> None:
    run = write_arms({"ce": CE[:2], "focal": FOCAL[:2]})
    trials = read_trials([run])
    for trial in trials:
        write_detections(trial.folder, found=[1, 2, 3])
    broken = trials[-1].folder
    if fault == "missing":
        (broken / "detections.npz").unlink()
    elif fault == "torn":
        (broken / "detections.npz").write_bytes((broken / "detections.npz").read_bytes()[:300])
    elif fault == "other":
        write_detections(broken, found=[1, 2, 3], gt_difficult=np.ones(40, bool))
    elif fault in ("no list", "empty"):
        for trial in trials:  # the baseline's are read first
            write_detections(trial.folder, found=[], image_ids=np.array("one") if fault == "no list" else np.array([]))
    else:
        write_detections(broken, found=[1, 2, 3], score=np.full(3, np.nan, np.float32))
    comparison = compared(run)
    assert comparison.comparisons[0].noise is None
    assert any(words in warning for warning in comparison.warnings)
    assert comparison.comparisons[0].paired is not None


def test_arms_with_one_configuration_are_one_arm(write_trial: Write, tmp_path: Path) -> None:
    loss = {"name": "focal", "gamma": 2.0}
    write_trial("runs/a/x", arm="gamma=2", seed=0, loss=loss)
    write_trial("runs/b/y", arm="gamma=2,alpha=0.25", seed=1, loss=loss)
    comparison = compared(tmp_path)
    assert [result.arm.label for result in comparison.arms] == ["gamma=2"]
    assert comparison.arms[0].summary.n == 2
    assert any("joined" in warning for warning in comparison.warnings)


def test_arms_with_one_pair_do_not_hide_what_the_others_can_show(write_arms: Write) -> None:
    lone = {f"lone-{number}": [0.7 + number / 100] for number in range(4)}
    comparison = compared(write_arms({"ce": CE, "same": SAME, **lone}), with_test_set_noise=False)
    found = {entry.arm: entry.paired for entry in comparison.comparisons}
    assert found["same"] == paired_difference(SAME, CE, num_comparisons=1)


def test_an_arm_that_failed_in_some_seeds_is_named(write_arms: Write, write_trial: Write) -> None:
    run = write_arms({"ce": CE, "risky": FOCAL})
    for seed in (6, 7):
        lost = write_trial(f"runs/test/1-risky-s{seed}-0000000{seed}", arm="risky", seed=seed, value=None)
        (lost / "result.json").unlink()
        status = {"state": "failed", "arm": "risky", "seed": seed, "error": "diverged"}
        (lost / "status.json").write_text(json.dumps(status))
    comparison = compared(run, with_test_set_noise=False)
    assert comparison.failed == {"risky": (6, 7)}
    assert [text for text in comparison.warnings if text.startswith("risky: failed in seed 6, 7; ")]
    assert comparison.as_document()["failed"] == {"risky": [6, 7]}
