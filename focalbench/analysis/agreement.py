"""Holds a sweep against the kept results of an earlier one: does it find on this machine what was found on that?

Both have the same arms and seeds, so that everything pairs: the same seed starts from the same weights and sees the
same batches. What is tested of an arm is the claim, not the level: by how much its difference from the baseline has
changed; all arms are one family, by the rule of the verdicts. Of the baseline it is its own mean, tested alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from focalbench.analysis import formats
from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.analysis.judged_arms import ArmResult
from focalbench.errors import ConfigError, DataError
from focalbench.records.reader import TrialRecord
from focalbench.statistics.summary import summarise
from focalbench.statistics.verdict import DIFFERENT, MIN_SEEDS, Judgement, Runs, judge

COLUMNS = (
    "arm",
    "seeds",
    "identical",
    "here",
    "kept",
    "change",
    "95 % CI",
    "verdict here",
    "kept verdict",
    "agreement",
)
"""Headings of :func:`agreement_cells`."""
Word = Literal["identical", "agrees", "undecided", "disagrees", "too few seeds", "not comparable"]
_ORDER: tuple[Word, ...] = ("disagrees", "not comparable", "too few seeds", "undecided", "agrees", "identical")
"""The least good that can be said first."""
_NOTHING = 1e-9
"""A smaller change is rounding of the differences of equal numbers."""
_OWN_MEAN = " (own mean)"


@dataclass(frozen=True)
class ArmAgreement:
    """One arm here and in the kept results.

    Attributes:
        arm: its name, the same in both.
        seeds: that both have.
        num_identical: how many of them have the same value, to the last bit.
        mean, kept_mean: of the metric over these seeds.
        change: here minus kept: of the arm's difference from the baseline; of the baseline itself, of its mean. None
            where nothing can be compared.
        verdict, kept_verdict: what either comparison says of the arm.
        word: identical (every value, and the baseline's), agrees (the change is shown to be smaller than the margin),
            disagrees (a change is shown, and not that it is so small), undecided (neither), too few seeds (fewer than
            six pairs), not comparable (this arm or the baseline is of another configuration, protocol or data).
    """

    arm: str
    seeds: tuple[int, ...]
    num_identical: int
    mean: float
    kept_mean: float
    change: Judgement | None
    verdict: str
    kept_verdict: str
    word: Word


@dataclass(frozen=True)
class Agreement:
    """A comparison beside an earlier one.

    Attributes:
        metric, baseline: of both.
        margin: largest change that does not matter; None where the metric has none.
        arms: that both have, the baseline first.
        only_here, only_kept: arms that have results in one of them alone.
        warnings: of the kept results.
    """

    metric: str
    baseline: str
    margin: float | None
    arms: tuple[ArmAgreement, ...]
    only_here: tuple[str, ...]
    only_kept: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def word(self) -> Word:
        """The word for all arms together: that of the arm about which the least good can be said."""
        return min((entry.word for entry in self.arms), key=_ORDER.index)

    def as_document(self) -> dict[str, Any]:
        """Returns the same as plain data, for JSON."""
        return {**asdict(self), "word": self.word}


def hold_against(here: Comparison, kept: Sequence[TrialRecord]) -> Agreement:
    """Returns how far ``here`` agrees with kept results.

    Raises:
        DataError: when they have nothing in common that could be compared: no such metric, or no such baseline.
    """
    own = {result.arm.label: result for result in here.arms}
    baseline = here.baseline or next(iter(own))
    if baseline not in (names := list(dict.fromkeys(trial.arm for trial in kept if trial.counts))):
        raise DataError(f"no arm {baseline!r} to start from, only {', '.join(names) or 'unfinished trials'}")
    try:
        earlier = compare_trials(kept, baseline=baseline, metric=here.metric)
    except ConfigError as fault:
        raise DataError(str(fault)) from fault
    other = {result.arm.label: result for result in earlier.arms}
    shared = [baseline, *(label for label in own if label in other and label != baseline)]
    pairs = {label: (own[label], other[label]) for label in shared if _comparable(own[label], other[label])}
    judged = _judged(pairs, baseline, here.margin) if baseline in pairs else {}
    verdicts, kept_verdicts = _verdicts(here), _verdicts(earlier)
    entries = [
        _entry(own[label], other[label], judged.get(label), verdicts[label], kept_verdicts[label]) for label in shared
    ]
    return Agreement(
        here.metric,
        baseline,
        here.margin,
        tuple(entries),
        tuple(label for label in own if label not in other),
        tuple(label for label in other if label not in own),
        earlier.warnings,
    )


def _comparable(own: ArmResult, other: ArmResult) -> bool:
    """Whether nothing speaks against it that the two are one configuration on the same data, seed by seed; what one of
    them does not say proves nothing.
    """
    for seed in own.values.keys() & other.values.keys():
        trials = (own.arm.trials[seed], other.arm.trials[seed])
        hashes = {trial.config_hash for trial in trials}
        facts = [(trial.result.protocol, trial.result.data_fingerprint) for trial in trials]
        differ = any(None not in said and said[0] != said[1] for said in zip(*facts, strict=True))
        if differ or len(hashes - {""}) > 1:
            return False
    return True


def _judged(
    pairs: Mapping[str, tuple[ArmResult, ArmResult]], baseline: str, margin: float | None
) -> dict[str, tuple[Word, Judgement | None]]:
    """Word and change by arm; the baseline's mean is a question of its own."""
    moved = {
        label: {seed: own.values[seed] - other.values[seed] for seed in sorted(own.values.keys() & other.values.keys())}
        for label, (own, other) in pairs.items()
    }
    base = moved[baseline]
    changes = {
        label: {seed: _exact(values[seed] - base[seed]) for seed in values if seed in base}
        for label, values in moved.items()
        if label != baseline
    }
    identical = {
        label
        for label, values in moved.items()
        if values and all(change == base.get(seed) == 0 for seed, change in values.items())
    }
    found: dict[str, tuple[Word, Judgement | None]] = dict.fromkeys(identical, ("identical", None))
    for family in ({baseline: base}, changes):
        runs = {label: Runs(values) for label, values in family.items() if label not in identical}
        zeros = Runs(dict.fromkeys({seed for values in family.values() for seed in values}, 0.0))
        judgements = judge(zeros, runs, direction="none", margin=margin, with_exact=False).arms
        found |= {label: (_word(change), change) for label, change in judgements.items()}
    return found


def _exact(change: float) -> float:
    return 0.0 if abs(change) < _NOTHING else change


def _word(change: Judgement) -> Word:
    if change.n < MIN_SEEDS:
        return "too few seeds"
    if change.p_equivalence < change.equivalence_level:
        return "agrees"  # be there a small change or not
    return "disagrees" if change.word in DIFFERENT else "undecided"


def _entry(
    own: ArmResult,
    other: ArmResult,
    judged: tuple[Word, Judgement | None] | None,
    verdict: str,
    kept_verdict: str,
) -> ArmAgreement:
    seeds = tuple(sorted(own.values.keys() & other.values.keys()))
    num_identical = sum(own.values[seed] == other.values[seed] for seed in seeds)
    mean, kept_mean = (summarise([result.values[seed] for seed in seeds]).mean for result in (own, other))
    word, change = ("not comparable", None) if judged is None else judged
    return ArmAgreement(own.arm.label, seeds, num_identical, mean, kept_mean, change, verdict, kept_verdict, word)


def _verdicts(comparison: Comparison) -> dict[str, str]:
    words = {result.arm.label: "baseline" for result in comparison.arms}
    return words | {entry.arm: entry.verdict for entry in comparison.comparisons}


def agreement_cells(agreement: Agreement) -> list[list[str]]:
    """Returns the table of arms as text, a cell for each of ``COLUMNS``."""
    return [_cells(entry, agreement) for entry in agreement.arms]


def _cells(entry: ArmAgreement, agreement: Agreement) -> list[str]:
    metric, found = agreement.metric, entry.change
    name = entry.arm + _OWN_MEAN * (entry.arm == agreement.baseline)
    own = [name, str(len(entry.seeds)), str(entry.num_identical)]
    own += [formats.value(entry.mean, metric), formats.value(entry.kept_mean, metric)]
    differs = ["", ""]
    if entry.word == "identical":
        differs = ["0", ""]
    elif found is not None and found.n > 0:
        differs = [formats.difference(found.difference, metric), formats.interval(found.ci, metric)]
    return [*own, *differs, entry.verdict, entry.kept_verdict, entry.word]


def agreement_note(agreement: Agreement) -> str:
    """Returns what stands below the table: what its columns and words mean."""
    small = f"the margin, {formats.points_words(agreement.margin)}" if agreement.margin is not None else "a margin"
    return (
        "here, kept: means over the seeds that both have. change: here minus kept, of the arm's difference from "
        f"{agreement.baseline}; of {agreement.baseline} itself, of its mean. agrees: the change is shown to be smaller "
        f"than {small}. disagrees: there is a change, not shown to be that small. undecided: neither is shown. "
        "identical: every value, the baseline's included, to the last bit. The intervals of the arms hold together."
    )


def agreement_sentence(agreement: Agreement) -> str:
    """Writes in a sentence whether the two agree."""
    named = ", ".join(entry.arm for entry in agreement.arms if entry.word == agreement.word)
    within = f" within {formats.points_words(agreement.margin)}" if agreement.margin is not None else ""
    num_values, num_arms = sum(len(entry.seeds) for entry in agreement.arms), len(agreement.arms)
    both = f"of the {num_arms} arms that both have" if num_arms > 1 else "of the one arm that both have"
    sentences: dict[Word, str] = {
        "identical": f"The two agree: all values {both} ({num_values}) are the same, to the last bit.",
        "agrees": f"The two agree{within}, in each {both}.",
        "undecided": f"Undecided for {named}: the seeds show neither a change nor agreement{within}.",
        "too few seeds": f"Fewer than six seeds in common for {named}: nothing can be said.",
        "not comparable": f"Not comparable, by configuration, protocol or data: {named}.",
        "disagrees": f"The two disagree on {named}.",
    }
    return sentences[agreement.word]
