"""Comparisons of run folders: what is said, and above all what is not said."""

import datetime
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focalbench.analysis.comparison import Comparison, compare_trials, metric_direction
from focalbench.analysis.comparison_document import comparison_document
from focalbench.analysis.formats import exaggeration_words, verdict_words
from focalbench.analysis.judged_arms import NOT_COMPARABLE
from focalbench.analysis.swept_keys import swept_grids
from focalbench.errors import ConfigError, DataError
from focalbench.records.reader import read_trials
from focalbench.statistics.verdict import Runs, judge

Write = Callable[..., Any]
CE = [0.700, 0.705, 0.695, 0.702, 0.698, 0.701]
FOCAL = [0.720, 0.722, 0.719, 0.723, 0.716, 0.724]
SAME = [0.701, 0.704, 0.697, 0.701, 0.696, 0.703]
DOWN = [0.680, 0.684, 0.676, 0.681, 0.679, 0.682]


def compared(*paths: Path, **keywords: Any) -> Comparison:
    return compare_trials(read_trials(paths), **keywords)


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {entry.arm: entry.verdict for entry in comparison.comparisons}


def test_figures_and_words(write_arms: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL, "same": SAME, "down": DOWN})
    comparison = compared(run, with_test_set_noise=False)
    assert comparison.baseline == "ce"
    assert [result.arm.label for result in comparison.arms] == ["ce", "focal", "same", "down"]
    assert verdicts(comparison) == {"focal": "better", "same": "no practical difference", "down": "worse"}
    focal = comparison.comparisons[0]
    arms = {"focal": FOCAL, "same": SAME, "down": DOWN}
    runs = {arm: Runs(dict(enumerate(values))) for arm, values in arms.items()}
    assert focal.judgement == judge(Runs(dict(enumerate(CE))), runs, margin=0.01).arms["focal"]
    assert comparison.num_arms == 3
    assert (focal.wins, comparison.comparisons[2].wins) == (6, 0)
    assert focal.correlation == pytest.approx(np.corrcoef(FOCAL, CE)[0, 1])
    assert comparison.arms[1].summary.mean == pytest.approx(np.mean(FOCAL))
    assert comparison.arms[1].summary.sd == pytest.approx(np.std(FOCAL, ddof=1))
    assert comparison.warnings == ()


def test_the_document_has_the_agreed_shape(write_arms: Write) -> None:
    document = comparison_document(compared(write_arms({"ce": CE, "focal": FOCAL}), with_test_set_noise=False))
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
    assert entry["words"] == "better"
    assert entry["wins"] == 6
    assert document["arms_corrected_for"] == 1
    assert document["margin"] == 0.01
    assert document["looks"] is None
    assert (
        document["seeds_for_margin"]["low"] <= document["seeds_for_margin"]["n"] <= document["seeds_for_margin"]["high"]
    )
    assert document["unfinished"] == document["warnings"] == []
    json.dumps(document)


@pytest.mark.parametrize(("n", "words"), [(1, "one seed: no claim"), (3, "not enough seeds"), (5, "not enough seeds")])
def test_few_seeds_make_no_claim(write_arms: Write, n: int, words: str) -> None:
    comparison = compared(write_arms({"ce": CE[:n], "focal": FOCAL[:n]}))
    assert verdicts(comparison) == {"focal": words}
    assert comparison.comparisons[0].judgement.difference == pytest.approx(np.mean(np.subtract(FOCAL, CE)[:n]))


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
    losses = [("focal", "focal"), ("ce-class", "softmax_ce"), ("ce-objectness", "ce")]
    yolo = [write_trial(f"runs/y/{i}", arm=arm, loss={"name": name}) for i, (arm, name) in enumerate(losses)]
    assert compared(*yolo).baseline == "ce-class"


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
    assert comparison.warnings[0] == "focal: seeds that are not in both arms, and so left out of the difference: 5, 9"


def test_arms_without_a_common_seed_are_not_compared(write_trial: Write, tmp_path: Path) -> None:
    for seed in range(6):
        write_trial(f"runs/a/ce{seed}", arm="ce", seed=seed)
        write_trial(f"runs/a/focal{seed}", arm="focal", seed=seed + 10)
    entry = compared(tmp_path).comparisons[0]
    assert entry.verdict == "not comparable"
    assert entry.not_comparable == ("seeds (10, 11, 12, 13, 14, 15 against 0, 1, 2, 3, 4, 5)",)
    assert entry.judgement is None


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
    assert any("the same configuration but different results" in warning for warning in comparison.warnings)


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
    found = {entry.arm: entry for entry in comparison.without_result}
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
    assert [entry.arm for entry in comparison.without_result] == ["x (stopped)"]


def test_trials_that_did_not_finish_are_listed(write_arms: Write, write_trial: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL})
    write_trial("runs/test/bad", arm="focal", seed=7, status={"state": "failed", "step": 3, "error": "diverged"})
    comparison = compared(run)
    assert [(trial.arm, trial.seed, trial.reason) for trial in comparison.unfinished] == [
        ("focal", 7, "failed at step 3: diverged")
    ]
    assert verdicts(comparison) == {"focal": "better"}
    assert comparison_document(comparison)["unfinished"][0]["state"] == "failed"


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
    assert verdicts(compared(run, metric="time")) == {"focal": "undecided"}
    assert compared(run, metric="time").margin is None
    with pytest.raises(DataError, match="undefined"):
        compared(run, metric="AP/dog")
    with pytest.raises(ConfigError, match="did you mean 'AP/cat'"):
        compared(run, metric="AP/cats")


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("val/mAP", "higher"), ("AP/loss", "higher"), ("train/loss", "none"), ("wall_s", "lower"),
     ("gpu_memory_mb", "lower"), ("images_per_s", "higher"), ("num_parameters", "none"), ("train/lr", "none")],
)  # fmt: skip
def test_directions(metric: str, direction: str) -> None:
    assert metric_direction(metric) == direction


def test_circumstances_are_warned_of(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/1", arm="ce", result={"precision": "float32", "device": "cpu", "data_fingerprint": None})
    write_trial("runs/a/2", arm="focal", result={"precision": "bfloat16", "device": "cuda:0", "lr_scale": 0.5})
    texts = " | ".join(compared(tmp_path).warnings)
    assert "different numeric precision: bfloat16, float32" in texts
    assert "different kinds of device: cpu, cuda" in texts
    assert "focal: diverged and continued at a lower learning rate: seed 0" in texts
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
        ("other", "belong to another test set"),
        ("nan", "not finite"),
        ("no list", "image_ids is not a list of names"),
        ("empty", "image_ids is not a list of names"),
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
    assert comparison.comparisons[0].judgement is not None


def test_arms_with_one_configuration_are_one_arm(write_trial: Write, tmp_path: Path) -> None:
    loss = {"name": "focal", "gamma": 2.0}
    write_trial("runs/a/x", arm="gamma=2", seed=0, loss=loss)
    write_trial("runs/b/y", arm="gamma=2,alpha=0.25", seed=1, loss=loss)
    comparison = compared(tmp_path)
    assert [result.arm.label for result in comparison.arms] == ["gamma=2"]
    assert comparison.arms[0].summary.n == 2
    assert any("merged" in warning for warning in comparison.warnings)


def test_arms_with_one_pair_do_not_hide_what_the_others_can_show(write_arms: Write) -> None:
    lone = {f"lone-{number}": [0.7 + number / 100] for number in range(4)}
    comparison = compared(write_arms({"ce": CE, "same": SAME, **lone}), with_test_set_noise=False)
    found = {entry.arm: entry.judgement for entry in comparison.comparisons}
    alone = judge(Runs(dict(enumerate(CE))), {"same": Runs(dict(enumerate(SAME)))}, margin=0.01)
    assert found["same"] == alone.arms["same"]
    assert comparison.num_arms == 1


def test_an_arm_that_failed_in_some_seeds_is_named(write_arms: Write, write_trial: Write) -> None:
    run = write_arms({"ce": CE, "risky": FOCAL})
    for seed in (6, 7):
        lost = write_trial(f"runs/test/1-risky-s{seed}-0000000{seed}", arm="risky", seed=seed, value=None)
        (lost / "result.json").unlink()
        status = {"state": "failed", "arm": "risky", "seed": seed, "error": "diverged"}
        (lost / "status.json").write_text(json.dumps(status))
    (entry,) = compared(run, with_test_set_noise=False).comparisons
    assert entry.verdict == "better"  # 2 of 8 against 0 of 6 may be chance
    assert entry.failures is not None
    assert entry.failures.seeds == (6, 7)
    assert verdict_words(entry, "val/mAP", 0.01) == "better; failed 2 of 8 seeds, 95 % 3 to 65 %"


def write_failed(write_trial: Write, arm: str, seeds: range) -> None:
    for seed in seeds:
        lost = write_trial(f"runs/test/9-{arm}-s{seed}-0000000{seed}", arm=arm, seed=seed, value=None)
        (lost / "result.json").unlink()
        status = {"state": "failed", "arm": arm, "seed": seed, "error": "diverged"}
        (lost / "status.json").write_text(json.dumps(status))


def test_an_arm_that_fails_far_more_often_is_not_better_whatever_the_rest_gained(
    write_arms: Write, write_trial: Write
) -> None:
    run = write_arms({"ce": [*CE, *CE], "risky": FOCAL})
    write_failed(write_trial, "risky", range(6, 12))
    comparison = compared(run, with_test_set_noise=False)
    (entry,) = comparison.comparisons
    assert verdict_words(entry, "val/mAP", 0.01) == "unstable: failed 6 of 12 seeds, 95 % 21 to 79 %"
    document = comparison_document(comparison)
    assert document["failed"] == {"risky": list(range(6, 12))}
    assert document["comparisons"][0]["failures"]["p"] == pytest.approx(2 / 2**6)


def test_an_arm_that_never_finished_has_a_row(write_arms: Write, write_trial: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL})
    write_failed(write_trial, "broken", range(3))
    comparison = compared(run, with_test_set_noise=False)
    assert verdicts(comparison) == {"focal": "better", "broken": "unstable"}
    (broken,) = comparison.without_result
    assert verdict_words(broken, "val/mAP", 0.01) == "unstable: failed 3 of 3 seeds, 95 % 29 to 100 %"
    assert comparison.num_arms == 1  # it has no p to correct for
    with pytest.raises(ConfigError, match="--baseline broken: this arm has no finished trial with the metric"):
        compared(run, baseline="broken")


def test_a_difference_that_is_the_same_in_every_seed_is_named(write_arms: Write) -> None:
    comparison = compared(write_arms({"ce": CE, "copy": CE, "shift": [value + 0.25 for value in CE]}))
    assert verdicts(comparison) == {"copy": "no practical difference", "shift": "better"}
    assert any(text.startswith("copy, shift: the difference is the same in every seed") for text in comparison.warnings)


def test_a_margin_above_the_baseline_calls_nobody_alike(write_arms: Write) -> None:
    comparison = compared(write_arms({"ce": [v / 100 for v in CE], "same": [v / 100 for v in SAME]}))
    assert verdicts(comparison) == {"same": "undecided"}
    assert comparison.margin is None
    assert comparison.warnings[0].startswith("sweep.margin: 0.01 is not below the baseline's mean val/mAP, 0.0070")


def test_undecided_says_between_what(write_arms: Write) -> None:
    noisy = [0.70, 0.74, 0.66, 0.75, 0.69, 0.72]
    comparison = compared(write_arms({"ce": CE, "noisy": noisy}))
    (entry,) = comparison.comparisons
    low, high = np.subtract(noisy, CE).mean() + np.array([-1, 1]) * 2.5706 * np.subtract(noisy, CE).std(ddof=1) / 6**0.5
    words = f"undecided: at most {100 * high:+.2f}, at least {100 * low:+.2f}"
    assert verdict_words(entry, "val/mAP", comparison.margin) == words


def test_a_claim_that_only_just_passes_is_said_to_be_overstated(write_arms: Write) -> None:
    jump = [v + d for v, d in zip(CE, [0.002, 0.03, 0.012, 0.006, 0.028, 0.02], strict=True)]
    over = compared(write_arms({"ce": CE, "jump": jump})).exaggeration
    assert over is not None
    assert 0.05 < over.power < 0.8
    assert over.reads > over.difference == 0.01
    assert "a true difference of 1 point is found in" in exaggeration_words(over, "val/mAP")


def test_an_interval_for_new_images_is_never_narrower(write_arms: Write, write_detections: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL})
    for trial in read_trials([run]):
        write_detections(trial.folder, found=list(range(20)) if trial.arm == "ce" else list(range(10, 40)))
    (entry,) = compared(run).comparisons
    low, high = entry.judgement.ci
    # Every seed has the same detections here, so the images' luck is shared by all of them.
    assert entry.noise.shared_variance == pytest.approx(entry.noise.sd**2)
    assert entry.ci_new_images[0] < low < high < entry.ci_new_images[1]


def test_luck_that_each_seed_has_of_its_own_is_not_counted_twice(write_arms: Write, write_detections: Write) -> None:
    run = write_arms({"ce": CE, "focal": FOCAL})
    rng = np.random.default_rng(0)
    for trial in read_trials([run]):
        write_detections(trial.folder, found=sorted(rng.choice(40, 20, replace=False).tolist()))
    (entry,) = compared(run).comparisons
    assert entry.noise.shared_variance < 0.3 * entry.noise.sd**2
