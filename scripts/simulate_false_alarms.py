"""How often the words of `focalbench compare` are wrong, and how often they come, in simulated sweeps.

Every sweep is judged by the code that judges real ones. Prints Markdown tables; those in docs/statistics.md are its
output. Usage: python scripts/simulate_false_alarms.py [SWEEPS] (4000: about a quarter of an hour on one core)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.published import PUBLISHED_CURVES, agreement
from focalbench.statistics.expected import num_trainings
from focalbench.statistics.looks import look_sizes
from focalbench.statistics.sequential import nominal_levels
from focalbench.statistics.verdict import (
    DIFFERENT,
    FINAL,
    LEVEL,
    MIN_SEEDS,
    ONE_LOOK,
    FamilyJudgement,
    Plan,
    Runs,
    judge,
)

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
LOOKS = look_sizes(MIN_SEEDS, 20)


def _draw_two_peaks(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.integers(0, 2, shape) + 0.1 * rng.normal(size=shape)


NOISES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (t, 3 d.o.f.)": lambda rng, shape: rng.standard_t(3, size=shape),
    "flat (uniform)": lambda rng, shape: rng.random(shape),
    "two peaks": _draw_two_peaks,
}
"""Run-to-run noise, the same in arms and baseline."""


def _quiet(rng: np.random.Generator, sweeps: int, arms: int, seeds: int, noise: Floats) -> Floats:
    """Differences of arms with ``noise``, of mean 0, to a baseline that scatters a third as much."""
    return noise - noise.std() / 3 * rng.normal(size=(sweeps, 1, seeds)) + np.zeros((1, arms, 1))


def _draw_skewed(rng: np.random.Generator, sweeps: int, arms: int, seeds: int) -> Floats:
    return _quiet(rng, sweeps, arms, seeds, np.exp(0.5) - rng.lognormal(size=(sweeps, arms, seeds)))


def _draw_diverging(rng: np.random.Generator, sweeps: int, arms: int, seeds: int) -> Floats:
    lost = 0.8 - 8.0 * (rng.random((sweeps, arms, seeds)) < 0.1)
    return _quiet(rng, sweeps, arms, seeds, rng.normal(size=(sweeps, arms, seeds)) + lost)


def _draw_unequal(rng: np.random.Generator, sweeps: int, arms: int, seeds: int) -> Floats:
    values = rng.normal(size=(sweeps, arms + 1, seeds))
    values[:, 1] *= 2.5
    return values[:, 1:] - values[:, :1]


def _draw_related(rng: np.random.Generator, sweeps: int, arms: int, seeds: int) -> Floats:
    values = rng.normal(size=(sweeps, arms, seeds)) + rng.normal(size=(sweeps, 1, seeds))
    return values / np.sqrt(2) - rng.normal(size=(sweeps, 1, seeds))


CASES: dict[str, Callable[[np.random.Generator, int, int, int], Floats]] = {
    "arms skewed to low values, baseline quiet": _draw_skewed,
    "arms lose 8 sd in 1 seed of 10, baseline quiet": _draw_diverging,
    "one arm scatters 2.5 times as much": _draw_unequal,
    "the arms share half of their variance": _draw_related,
}
"""Differences of mean 0 whose noise is not the same everywhere."""


def same_noise(rng: np.random.Generator, noise: str, sweeps: int, arms: int, seeds: int) -> Floats:
    """Differences of arms and baseline of one noise, in sd of a difference: (sweeps, arms, seeds)."""
    draw = NOISES[noise]
    values = draw(rng, (sweeps, arms + 1, seeds)) / draw(np.random.default_rng(1), (200_000,)).std()
    return (values[:, 1:] - values[:, :1]) / np.sqrt(2)


def judged(differences: Floats, plan: Plan = ONE_LOOK, **options: float | bool | None) -> FamilyJudgement:
    """Judges one sweep: (arms, seeds) differences to a baseline of zeros."""
    seeds = range(differences.shape[1])
    arms = {str(number): Runs(dict(zip(seeds, row, strict=True))) for number, row in enumerate(differences.tolist())}
    return judge(Runs(dict.fromkeys(seeds, 0.0)), arms, plan, **({"with_exact": False} | options))  # type: ignore[arg-type]


def plan_of_looks(num_arms: int, sizes: Sequence[int] = LOOKS) -> Plan:
    """The looks of ``sweep.until: decided`` with all seeds there."""
    return Plan.declared(range(sizes[-1]), sizes, num_arms)


@dataclass(frozen=True)
class Rates:
    """What came of simulated sweeps.

    Attributes:
        alarms: share with an arm called different.
        first: share in which the first arm is called different.
        alike: share of arms called practically alike.
        covered: share in which every arm's interval holds the true difference.
        trainings: mean number, the baseline's included.
    """

    alarms: float
    first: float
    alike: float
    covered: float
    trainings: float


def rates(differences: Floats, plan: Plan = ONE_LOOK, *, truth: float = 0.0, margin: float | None = None) -> Rates:
    """Judges (sweeps, arms, seeds) differences; ``truth`` is what the first arm's mean is made to be."""
    sums = np.zeros(5)
    for sweep in differences:
        sweep[0] += truth
        arms = list(judged(sweep, plan, margin=margin).arms.values())
        true = [truth] + [0.0] * (len(arms) - 1)
        sums += (
            any(arm.word in DIFFERENT for arm in arms),
            arms[0].word in DIFFERENT,
            np.mean([arm.word == "no practical difference" for arm in arms]),
            all(arm.ci[0] <= value <= arm.ci[1] for arm, value in zip(arms, true, strict=True)),
            num_trainings(arms, (sweep.shape[1],) if plan is ONE_LOOK else LOOKS),
        )
    return Rates(*(sums / len(differences)).tolist())


def looked_at_until_a_word_comes(differences: Floats, sizes: Sequence[int]) -> float:
    """The share of sweeps in which somebody finds a difference who looks at each size with the rule for one look."""
    found = 0
    for sweep in differences:
        found += any(
            arm.word in DIFFERENT for size in sizes for arm in judged(sweep[:, :size], margin=None).arms.values()
        )
    return found / len(differences)


def crossing_rate(num_walks: int, *, seed: int = 0) -> float:
    """The share of random walks without drift that cross a boundary of the six looks."""
    rng = np.random.default_rng(seed)
    bounds = nominal_levels(LOOKS, tuple(size / LOOKS[-1] for size in LOOKS), LEVEL)
    sums = np.cumsum(rng.normal(size=(num_walks, LOOKS[-1])), axis=1)
    from scipy import special

    p = [
        2 * special.ndtr(-np.abs(sums[:, size - 1]) / np.sqrt(size)) < bound
        for size, bound in zip(LOOKS, bounds, strict=True)
    ]
    return float(np.any(p, axis=0).mean())


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


Row = Mapping[str, object]


def false_alarms(sweeps: int) -> Iterator[Row]:
    """One look, one noise everywhere."""
    for noise, arms in product(NOISES, (1, 4, 9)):
        row = {"noise": noise, "arms": arms}
        for seeds in (6, 10, 20):
            rng = np.random.default_rng(arms * 100 + seeds)
            number = 5 * sweeps if arms == 1 else sweeps  # that is quick, and the rates are close to their limit
            row[f"{seeds} seeds"] = _percent(rates(same_noise(rng, noise, number, arms, seeds)).alarms)
        yield row


def difficult_cases(sweeps: int) -> Iterator[Row]:
    """One look and six looks where the noise differs from arm to arm."""
    for case, arms in product(CASES, (1, 4, 9)):
        if case == "the arms share half of their variance" and arms == 1:
            continue
        row = {"case": case, "arms": arms}
        for seeds in (6, 10, 20):
            found = rates(CASES[case](np.random.default_rng(arms * 100 + seeds), sweeps, arms, seeds))
            row[f"{seeds} seeds"] = _percent(found.alarms)
        looked = CASES[case](np.random.default_rng(arms), sweeps // 2, arms, LOOKS[-1])
        row["six looks"] = _percent(rates(looked, plan_of_looks(arms)).alarms)
        yield row


def power(sweeps: int) -> Iterator[Row]:
    """A true difference of the first arm, in sd of a paired difference."""
    for arms, seeds in product((1, 4, 9), (6, 10)):
        row = {"arms": arms, "seeds": seeds}
        for size in (1.0, 1.33, 2.0, 3.0):
            values = same_noise(np.random.default_rng(arms * 100 + seeds), "normal", sweeps, arms, seeds)
            row[f"{size:g} sd"] = _percent(rates(values, truth=size).first)
        yield row


def looks(sweeps: int) -> Iterator[Row]:
    """No difference, looked at up to six times; the margin in sd of a paired difference."""
    for arms, margin in product((1, 4, 9), (None, 1.0)):
        row = {"arms": arms, "margin": "none" if margin is None else "1 sd"}
        for noise in NOISES:
            values = same_noise(np.random.default_rng(arms), noise, sweeps, arms, LOOKS[-1])
            row[noise] = _percent(rates(values, plan_of_looks(arms), margin=margin).alarms)
        yield row


def equivalence(sweeps: int) -> Iterator[Row]:
    """How often an arm is called practically alike: where it is, and where it is as far away as the margin."""
    for arms, margin in product((1, 4, 9), (1.0, 2.0)):
        row: dict[str, object] = {"arms": arms, "margin": f"{margin:g} sd"}
        for title, plan, seeds in (("6 seeds", ONE_LOOK, 6), ("20 seeds", ONE_LOOK, 20), ("six looks", None, 20)):
            values = same_noise(np.random.default_rng(arms), "normal", sweeps, arms, seeds)
            alike = rates(values.copy(), plan or plan_of_looks(arms), margin=margin)
            wrong = _wrongly_alike(values, plan or plan_of_looks(arms), margin)
            row |= {f"{title}: alike": _percent(alike.alike), f"{title}: wrongly": _percent(wrong)}
        yield row


def _wrongly_alike(differences: Floats, plan: Plan, margin: float) -> float:
    """The share of sweeps in which the first arm, as far from the baseline as the margin, is called alike."""
    found = 0
    for sweep in differences:
        sweep[0] += margin
        found += judged(sweep, plan, margin=margin).arms["0"].word == "no practical difference"
    return found / len(differences)


def coverage(sweeps: int) -> Iterator[Row]:
    """Whether the intervals of all arms hold the truth at once, where the first arm differs by 3 sd."""
    for arms, (title, plan, seeds) in product((1, 4, 9), (("one look, 6 seeds", True, 6), ("six looks", False, 20))):
        for truth in (0.0, 3.0):
            values = same_noise(np.random.default_rng(arms), "normal", sweeps, arms, seeds)
            found = rates(values, ONE_LOOK if plan else plan_of_looks(arms), truth=truth, margin=1.0)
            yield {
                "looks": title,
                "arms": arms,
                "first arm": f"{truth:g} sd",
                "all intervals right": _percent(found.covered),
            }


def trainings(sweeps: int) -> Iterator[Row]:
    """What a sweep costs, and how many arms get a word: with a list of seeds, and until decided."""
    for title, sds, means, margin in (
        ("4 null arms, sd 1 point, margin 1", [1.0] * 4, [0.0] * 4, 1.0),
        ("4 null arms, sd 1.5, margin 2", [1.5] * 4, [0.0] * 4, 2.0),
        ("3 close arms (0, .5, 1), sd 1, margin 1", [1.0] * 3, [0.0, 0.5, 1.0], 1.0),
        (
            "9 arms, sd 1 to 2, differences 0 to 4, margin 1",
            [1 + i / 8 for i in range(9)],
            [i / 2 for i in range(9)],
            1.0,
        ),
    ):
        row: dict[str, object] = {"sweep": title}
        for name, seeds in (("6 seeds", 6), ("20 seeds", 20), ("until decided", 0)):
            words, used = 0, 0.0
            for sweep in same_noise(np.random.default_rng(7), "normal", sweeps, len(sds), seeds or LOOKS[-1]):
                values = sweep * np.array(sds)[:, None] + np.array(means)[:, None]
                plan = ONE_LOOK if seeds else plan_of_looks(len(sds))
                arms = list(judged(values, plan, margin=margin).arms.values())
                words += sum(arm.word in FINAL for arm in arms)
                used += num_trainings(arms, (seeds,) if seeds else LOOKS)
            row[name] = f"{used / sweeps:.0f} ({100 * words / sweeps / len(sds):.0f} %)"
        yield row


def _smooth(rng: np.random.Generator, values: int) -> Floats:
    """A line and a parabola of random slopes."""
    x = np.linspace(-1, 1, values)
    return rng.normal() * x + rng.normal() * (3 * x**2 - 1) / 2


CURVES: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "each value drawn on its own": lambda rng, values: rng.normal(size=values),
    "a random walk": lambda rng, values: np.cumsum(rng.normal(size=values)),
    "a random line and a random parabola": _smooth,
}
"""Curves over the values of a key that have nothing to do with a published one."""


def card(sweeps: int) -> Iterator[Row]:
    """What the reproduction card says of six seeds that share an unrelated curve, beside the gammas of table 1b."""
    published = list(next(curve for curve in PUBLISHED_CURVES if curve.key == "loss.gamma").points.values())
    for curve, draw in CURVES.items():
        row: dict[str, object] = {"unrelated curve": curve}
        for values in (3, 4, 5, 7):
            rng = np.random.default_rng(values)
            theirs = published[-values:]
            words = []
            for _ in range(sweeps):
                shared = draw(rng, values)
                ours = shared / shared.std() + 0.1 * rng.normal(size=(6, values))
                words.append(agreement(ours, theirs).verdict)
            agrees, disagrees = (words.count(word) / sweeps for word in ("agrees", "disagrees"))
            row[f"{values} values"] = f"{_percent(agrees)} / {_percent(disagrees)}"
        yield row


def print_table(title: str, rows: Iterator[Row]) -> None:
    """Prints Markdown, each row as soon as it is there."""
    print(f"\n### {title}\n", flush=True)
    for number, row in enumerate(rows):
        if number == 0:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)


def main() -> None:
    """Runs all simulations."""
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(
        f"{sweeps} simulated sweeps a figure; half as many with several looks, a quarter in the last table. Rates in %."
    )
    print_table("No difference: an arm is called better or worse", false_alarms(sweeps))
    print_table("No difference, but unlike noise: an arm is called better or worse", difficult_cases(sweeps))
    print_table("A true difference of one arm is found", power(sweeps))
    print_table(
        "No difference, until decided at 6, 8, 10, 12, 16, 20 seeds: an arm is called better or worse",
        looks(sweeps // 2),
    )
    print_table("Called practically alike: arms that are, and arms as far away as the margin", equivalence(sweeps // 2))
    print_table("The intervals of all arms hold the truth", coverage(sweeps // 2))
    print_table("Training runs, and the share of arms that get a word", trainings(sweeps // 4))
    print_table("The reproduction card: agrees / disagrees, by how many values are shared", card(sweeps // 4))
    values = same_noise(np.random.default_rng(3), "normal", sweeps // 2, 4, LOOKS[-1])
    print(
        "\nLooked at with the rule for one look until a word comes, four arms: "
        f"{_percent(looked_at_until_a_word_comes(values, LOOKS))} % at 6, 8, 10, 12, 16, 20 seeds, "
        f"{_percent(looked_at_until_a_word_comes(values, range(6, 21)))} % at every number from 6 to 20."
    )
    print(f"Random walks that cross a boundary of the six looks: {_percent(crossing_rate(400_000))} %.")


if __name__ == "__main__":
    main()
