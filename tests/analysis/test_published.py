"""The reproduction card: rank correlation with the published curves, and what it may say."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from focalbench.analysis.comparison import compare_trials
from focalbench.analysis.published import (
    PUBLISHED_CURVES,
    ReproductionCard,
    agreement,
    permutation_p,
    rank_correlation,
    reproduction_cards,
)
from focalbench.records.reader import read_trials

Write = Callable[..., Path]
ALPHA_CURVE, GAMMA_CURVE = PUBLISHED_CURVES[:2]
YOLOV2 = {"model": {"name": "yolov2"}}


def cards_of(tmp_path: Path) -> list[ReproductionCard]:
    return reproduction_cards(compare_trials(read_trials([tmp_path]), with_test_set_noise=False).arms)


def write_curve(
    write_trial: Write,
    curve: dict[float, float],
    *,
    seeds: int,
    noise: float = 0.001,
    name: str = "focal",
    apply_to: str = "class",
    settings: dict | None = None,
) -> None:
    rng = np.random.default_rng(0)
    for gamma, value in curve.items():
        for seed in range(seeds):
            loss = {"name": name, "gamma": gamma, "apply_to": apply_to}
            trial = {"arm": f"gamma={gamma}", "seed": seed, "value": value / 100 + noise * rng.normal()}
            write_trial(f"runs/{name}/g{gamma}-s{seed}", loss=loss, settings=settings, **trial)


@pytest.mark.parametrize(("a", "b"), [([1, 2, 3, 4], [1, 3, 2, 4]), ([1, 1, 2, 5, 4], [3, 2, 2, 9, 1])])
def test_rank_correlation_equals_scipy(a: list[float], b: list[float]) -> None:
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_a_flat_curve_has_no_rank_correlation() -> None:
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_the_published_curve_itself_agrees(write_trial: Write, tmp_path: Path) -> None:
    write_curve(write_trial, GAMMA_CURVE.points, seeds=6)
    (card,) = cards_of(tmp_path)
    assert card.verdict == "agrees"
    assert card.correlation > 0.9
    assert card.p < 0.05
    assert card.p_permutation < 0.01
    assert card.caveat == ""
    assert card.values == tuple(GAMMA_CURVE.points)
    assert card.theirs == tuple(GAMMA_CURVE.points.values())


def test_the_mirrored_curve_disagrees(write_trial: Write, tmp_path: Path) -> None:
    write_curve(write_trial, {gamma: 60 - value for gamma, value in GAMMA_CURVE.points.items()}, seeds=6)
    (card,) = cards_of(tmp_path)
    assert card.verdict == "disagrees"
    assert card.mean_correlation < -0.9
    assert card.p_permutation < 0.01


@pytest.mark.parametrize("sign", [1, -1])
def test_a_weak_pattern_that_all_seeds_share_is_underpowered(write_trial: Write, tmp_path: Path, sign: int) -> None:
    # Falling from gamma 0.5 to 5: of the published order only the last place is met, rank correlation .2.
    write_curve(write_trial, {0.5: 50 + 4 * sign, 1.0: 50 + 3 * sign, 2.0: 50 + 2 * sign, 5.0: 50 - sign}, seeds=6)
    (card,) = cards_of(tmp_path)
    assert card.correlation == pytest.approx(0.2 * sign)
    assert card.p < 0.05
    assert card.p_permutation > 0.2
    assert card.verdict == "underpowered"


def test_three_values_never_agree(write_trial: Write, tmp_path: Path) -> None:
    write_curve(write_trial, {gamma: GAMMA_CURVE.points[gamma] for gamma in (0.5, 1.0, 2.0)}, seeds=6, noise=0.0)
    (card,) = cards_of(tmp_path)
    assert card.mean_correlation == pytest.approx(1)
    assert card.p_permutation == pytest.approx(1 / 6)
    assert card.verdict == "underpowered"
    assert card.caveat == "3 values are too few for a claim: their p over values is at least 0.17."


def test_four_values_agree_only_in_perfect_order() -> None:
    nearly = agreement([[1, 3, 4, 2]] * 6, [32.9, 33.7, 34.0, 32.2])
    assert nearly.mean_correlation == pytest.approx(0.8)
    assert (nearly.verdict, nearly.p_permutation) == ("underpowered", pytest.approx(4 / 24))
    perfect = agreement([[2, 3, 4, 1]] * 6, [32.9, 33.7, 34.0, 32.2])
    assert (perfect.verdict, perfect.p_permutation) == ("agrees", pytest.approx(1 / 24))


@pytest.mark.parametrize("theirs", [[3, 1, 4, 1, 5], [1, 2, 3, 4, 5]])
@pytest.mark.parametrize("num_seeds", [1, 4])
def test_permutation_p_equals_scipy(num_seeds: int, theirs: list[float]) -> None:
    ours = np.random.default_rng(num_seeds).integers(0, 6, (num_seeds, 5))  # ties too

    def mean_correlation(figures: np.ndarray) -> float:
        return float(np.mean([stats.spearmanr(curve, figures).statistic for curve in ours]))

    wanted = stats.permutation_test(
        (np.array(theirs),),
        mean_correlation,
        permutation_type="pairings",
        alternative="greater" if mean_correlation(np.array(theirs)) > 0 else "less",
        vectorized=False,
    )
    assert permutation_p(ours, theirs) == pytest.approx(wanted.pvalue)
    assert permutation_p(-ours, theirs) == pytest.approx(wanted.pvalue)


def test_of_many_values_orders_are_drawn_and_the_observed_one_counts() -> None:
    rising = list(range(9))
    assert permutation_p([rising], rising) == pytest.approx(1 / 20_001)
    weak = [2, 0, 1, 3, 8, 4, 7, 6, 5]
    wanted = stats.permutation_test(
        (rising,),
        lambda figures, axis: weak @ np.moveaxis(figures, axis, 0),
        permutation_type="pairings",
        n_resamples=50_000,
        alternative="greater",
        vectorized=True,
        rng=1,
    ).pvalue
    assert permutation_p([weak], rising) == pytest.approx(wanted, abs=0.005)


def test_seeds_whose_curve_does_not_vary_are_left_out() -> None:
    curves, flat = [[2, 3, 4, 1]] * 5, [1, 1, 1, 1]
    found = agreement([*curves, flat], [32.9, 33.7, 34.0, 32.2])
    assert found == agreement(curves, [32.9, 33.7, 34.0, 32.2])
    assert found.verdict == "underpowered"
    nothing = agreement([flat], [32.9, 33.7, 34.0, 32.2])
    assert nothing.verdict == "underpowered"
    assert all(map(math.isnan, nothing[:3]))


@pytest.mark.parametrize(("seeds", "noise"), [(3, 0.0), (1, 0.0), (6, 0.5)])
def test_few_seeds_or_much_noise_are_underpowered(write_trial: Write, tmp_path: Path, seeds: int, noise: float) -> None:
    write_curve(write_trial, GAMMA_CURVE.points, seeds=seeds, noise=noise)
    (card,) = cards_of(tmp_path)
    assert card.verdict == "underpowered"


def test_only_shared_values_count_and_two_are_no_curve(write_trial: Write, tmp_path: Path) -> None:
    write_curve(write_trial, {0.5: 30, 2.0: 31, 3.0: 32, 7.0: 33}, seeds=2)
    assert cards_of(tmp_path) == []


def test_each_loss_has_its_own_curves(write_trial: Write, tmp_path: Path) -> None:
    write_curve(write_trial, {0.0: 73, 1.0: 74, 2.0: 75}, seeds=2, name="softmax_focal", settings=YOLOV2)
    assert [card.published for card in cards_of(tmp_path)] == [
        "softmax focal loss by gamma, YOLOv2 416 px",
        "softmax focal loss by gamma, YOLOv2 544 px",
    ]


@pytest.mark.parametrize(
    ("name", "apply_to", "settings"),
    [("softmax_focal", "class", None), ("softmax_focal", "objectness", YOLOV2), ("focal", "objectness", YOLOV2)],
)
def test_another_detector_or_another_of_its_terms_has_no_card(
    write_trial: Write, tmp_path: Path, name: str, apply_to: str, settings: dict | None
) -> None:
    curve = {0.0: 73, 1.0: 74, 2.0: 75}
    write_curve(write_trial, curve, seeds=2, name=name, apply_to=apply_to, settings=settings)
    assert cards_of(tmp_path) == []


def write_alphas(write_trial: Write, cells: list[tuple[float, float]]) -> None:
    for gamma, alpha in cells:
        loss = {"name": "focal", "gamma": gamma, "alpha": alpha}
        write_trial(f"runs/{gamma}-{alpha}", arm=f"{gamma}-{alpha}", value=(1 + gamma) * (2 - alpha) / 20, loss=loss)


def test_tables_1a_and_1b_from_one_sweep(write_trial: Write, tmp_path: Path) -> None:
    """experiments/gamma_alpha.yaml: gamma 0 is balanced cross entropy, with seven alphas: their best flatters."""
    cells = [(0.0, alpha) for alpha in ALPHA_CURVE.points]
    write_alphas(write_trial, cells + [cell for cell in GAMMA_CURVE.chosen.items() if cell[0] > 0])
    by_alpha, by_gamma = cards_of(tmp_path)
    assert (by_alpha.published, by_alpha.values) == (ALPHA_CURVE.name, tuple(ALPHA_CURVE.points))
    assert (by_gamma.published, by_gamma.values) == (GAMMA_CURVE.name, tuple(GAMMA_CURVE.points))
    assert by_gamma.ours[0] == pytest.approx((2 - 0.75) / 20)  # at the paper's alpha, not at the best


def test_values_tried_unequally_often_have_no_card_unless_the_paper_says_which(
    write_trial: Write, tmp_path: Path
) -> None:
    write_alphas(write_trial, [(0.5, 0.1), (0.5, 0.2), (0.5, 0.3), (1.0, 0.1), (2.0, 0.1), (5.0, 0.1)])
    assert cards_of(tmp_path) == []


def test_one_automatic_alpha_costs_no_card(write_trial: Write, tmp_path: Path) -> None:
    for number, alpha in enumerate([*ALPHA_CURVE.points, "auto"]):
        loss = {"name": "balanced_ce", "alpha": alpha}
        write_trial(f"runs/{number}", arm=f"alpha={alpha}", value=0.1 * number, loss=loss)
    (card,) = cards_of(tmp_path)
    assert card.values == tuple(ALPHA_CURVE.points)


def test_with_a_second_key_the_best_arm_stands_for_each_value(write_trial: Write, tmp_path: Path) -> None:
    for gamma in (0.5, 1.0, 2.0):
        for alpha in (0.25, 0.5):
            loss = {"name": "focal", "gamma": gamma, "alpha": alpha}
            write_trial(f"runs/{gamma}-{alpha}", arm=f"{gamma}-{alpha}", value=gamma * (1 + alpha) / 10, loss=loss)
    (card,) = cards_of(tmp_path)
    assert card.ours == pytest.approx([0.075, 0.15, 0.3])
    assert card.as_document()["values"] == (0.5, 1.0, 2.0)


@pytest.mark.parametrize("shared", [0, 1])
def test_unrelated_curves_rarely_agree(shared: float) -> None:
    """Seeds that share any curve pass the t test more often than not; the other p asks if it is the published one."""
    rng = np.random.default_rng(0)
    theirs = list(GAMMA_CURVE.points.values())
    found = [agreement(shared * rng.normal(size=7) + 0.1 * rng.normal(size=(6, 7)), theirs) for _ in range(1500)]
    verdicts = [each.verdict for each in found]
    # At most .05 each by construction; the limits are some three standard errors of 1500 draws above it.
    assert verdicts.count("agrees") / 1500 <= 0.067
    assert verdicts.count("disagrees") / 1500 <= 0.067
    assert (sum(each.p < 0.05 for each in found) > 750) == bool(shared)
