"""The reproduction card: rank correlation with the published curves, and what it may say."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from focalbench.analysis.comparison import compare_trials
from focalbench.analysis.published import PUBLISHED_CURVES, ReproductionCard, rank_correlation, reproduction_cards
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


def test_the_published_curve_itself_agrees_and_its_mirror_disagrees(write_trial: Write, tmp_path: Path) -> None:
    write_curve(write_trial, GAMMA_CURVE.points, seeds=6)
    (card,) = cards_of(tmp_path)
    assert card.verdict == "agrees"
    assert card.correlation > 0.9
    assert card.values == tuple(GAMMA_CURVE.points)
    assert card.theirs == tuple(GAMMA_CURVE.points.values())


def test_the_mirrored_curve_disagrees(write_trial: Write, tmp_path: Path) -> None:
    write_curve(write_trial, {gamma: 60 - value for gamma, value in GAMMA_CURVE.points.items()}, seeds=6)
    (card,) = cards_of(tmp_path)
    assert card.verdict == "disagrees"


@pytest.mark.parametrize(("sign", "word"), [(1, "agrees in part"), (-1, "disagrees in part")])
def test_a_weak_pattern_that_all_seeds_share_is_no_agreement(
    write_trial: Write, tmp_path: Path, sign: int, word: str
) -> None:
    # Falling from gamma 0.5 to 5: of the published order only the last place is met, rank correlation .2.
    write_curve(write_trial, {0.5: 50 + 4 * sign, 1.0: 50 + 3 * sign, 2.0: 50 + 2 * sign, 5.0: 50 - sign}, seeds=6)
    (card,) = cards_of(tmp_path)
    assert card.correlation == pytest.approx(0.2 * sign)
    assert card.p < 0.04
    assert card.verdict == word


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


def test_no_effect_is_rarely_called_one() -> None:
    from focalbench.analysis.statistics import paired_t_p, verdict

    rng = np.random.default_rng(0)
    theirs = list(GAMMA_CURVE.points.values())
    claims = 0
    for _ in range(500):
        of_seeds = np.array([rank_correlation(list(rng.normal(size=7)), theirs) for _ in range(6)])
        claims += verdict(6, of_seeds.mean(), paired_t_p(of_seeds)) != "no difference shown"
    assert claims / 500 <= 0.06
