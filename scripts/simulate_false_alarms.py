"""How often the verdict of `focalbench compare` is a false alarm, and how often it finds a true difference.

Simulates sweeps and prints Markdown tables; those in docs/statistics.md are its output.
Usage: python scripts/simulate_false_alarms.py [SWEEPS]
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.statistics import MIN_SEEDS, holm, paired_t_p, sign_flip_p, verdict

RULES = ("verdict", "t", "t and Holm", "exact", "exact and Holm", "t and Holm, and exact")
"""``verdict`` is the rule in force; the others, at .05, are those it was chosen from."""
Row = dict[str, float | int | str]
Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


def _draw_outliers(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.normal(size=shape) * np.where(rng.random(shape) < 0.1, 8.0, 1.0)


def _draw_two_peaks(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return rng.integers(0, 2, shape) + 0.1 * rng.normal(size=shape)


NOISES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (t, 3 d.o.f.)": lambda rng, shape: rng.standard_t(3, size=shape),
    "skewed (log-normal)": lambda rng, shape: rng.lognormal(size=shape),
    "flat (uniform)": lambda rng, shape: rng.random(shape),
    "two peaks": _draw_two_peaks,
    "1 seed in 10 wild": _draw_outliers,
}
"""Run-to-run noise of one trial."""


@dataclass(frozen=True)
class Rates:
    """Shares of simulated sweeps, by rule.

    Attributes:
        any_claim: at least one arm was called different.
        first_found: the first arm was called different.
    """

    any_claim: dict[str, float]
    first_found: dict[str, float]


def simulate_sweeps(
    *,
    num_sweeps: int,
    num_seeds: int,
    num_arms: int,
    noise: str = "normal",
    effect_sd: float = 0.0,
    shared: float = 0.0,
    seed: int = 0,
) -> Rates:
    """Sweeps of one baseline and ``num_arms`` arms, all drawn from one distribution, judged by each rule.

    Args:
        num_sweeps: how many.
        num_seeds: paired seeds in each.
        num_arms: arms beside the baseline.
        noise: a key of ``NOISES``.
        effect_sd: true difference of the first arm, in standard deviations of a single trial.
        shared: share of a trial's variance that all arms of one seed have in common, in [0, 1).
        seed: of the simulation.
    """
    rng = np.random.default_rng(seed)
    draw = NOISES[noise]
    values = np.sqrt(1 - shared) * draw(rng, (num_sweeps, num_arms + 1, num_seeds))
    values += np.sqrt(shared) * draw(rng, (num_sweeps, 1, num_seeds))
    spread = float(draw(np.random.default_rng(seed + 1), (200_000,)).std())
    values[:, 1] += effect_sd * spread
    differences = values[:, 1:] - values[:, :1]
    any_claim = dict.fromkeys(RULES, 0)
    first_found = dict.fromkeys(RULES, 0)
    for sweep in differences:
        for rule, claims in _claims(sweep).items():
            any_claim[rule] += any(claims)
            first_found[rule] += claims[0]
    return Rates(
        {rule: count / num_sweeps for rule, count in any_claim.items()},
        {rule: count / num_sweeps for rule, count in first_found.items()},
    )


def _claims(differences: NDArray[np.float64]) -> dict[str, list[bool]]:
    """By rule, whether each arm (row) would be called better or worse."""
    p_t = [paired_t_p(row) for row in differences]
    p_exact = [sign_flip_p(row) for row in differences]
    t_holm, exact_holm = holm(p_t), holm(p_exact)
    words = [verdict(differences.shape[1], float(row.mean()), p) for row, p in zip(differences, t_holm, strict=True)]
    return {
        "verdict": [word in ("better", "worse") for word in words],
        "t": [p < 0.05 for p in p_t],
        "t and Holm": [p < 0.05 for p in t_holm],
        "exact": [p <= 0.05 for p in p_exact],
        "exact and Holm": [p <= 0.05 for p in exact_holm],
        "t and Holm, and exact": [t < 0.05 and e <= 0.05 for t, e in zip(t_holm, p_exact, strict=True)],
    }


def false_alarm_table(num_sweeps: int, *, seed: int = 0) -> list[Row]:
    """False alarms under no difference: one row for each noise, number of seeds and of arms."""
    rows: list[Row] = []
    for num_seeds, num_arms, noise in itertools.product((MIN_SEEDS, 10), (1, 3, 7), NOISES):
        rates = simulate_sweeps(num_sweeps=num_sweeps, num_seeds=num_seeds, num_arms=num_arms, noise=noise, seed=seed)
        rows.append({"noise": noise, "seeds": num_seeds, "arms": num_arms, **rates.any_claim})
    return rows


def power_table(num_sweeps: int, *, seed: int = 0) -> list[Row]:
    """How often a true difference is found: one row for each size, number of seeds and of arms."""
    rows: list[Row] = []
    sizes = ((1.0, 0.0), (2.0, 0.0), (2.0, 0.5), (3.0, 0.0))
    for (effect_sd, shared), num_seeds, num_arms in itertools.product(sizes, (MIN_SEEDS, 10), (1, 3, 7)):
        rates = simulate_sweeps(
            num_sweeps=num_sweeps, num_seeds=num_seeds, num_arms=num_arms, effect_sd=effect_sd, shared=shared, seed=seed
        )
        row = {"effect_sd": effect_sd, "shared": shared, "seeds": num_seeds, "arms": num_arms}
        rows.append({**row, **rates.first_found})
    return rows


def print_markdown(title: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """One table: the given columns, then each rule's rate in per cent."""
    print(f"\n### {title}\n")
    print("| " + " | ".join([*columns, *RULES]) + " |")
    print("|" + "---|" * (len(columns) + len(RULES)))
    for row in rows:
        cells = [str(row[column]) for column in columns] + [f"{100 * float(row[rule]):.1f}" for rule in RULES]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Run both simulations."""
    num_sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(f"{num_sweeps} simulated sweeps a row; rates in %.")
    print_markdown(
        "No difference: at least one arm called better or worse",
        false_alarm_table(num_sweeps),
        ["noise", "seeds", "arms"],
    )
    print_markdown(
        "A true difference of the first arm: found", power_table(num_sweeps), ["effect_sd", "seeds", "arms", "shared"]
    )


if __name__ == "__main__":
    main()
