"""Gathers everything the page says, as plain records; the template only lays it out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from focalbench.analysis import formats
from focalbench.analysis.arms import Arm
from focalbench.analysis.comparison import Comparison
from focalbench.analysis.judged_arms import ArmComparison, ArmResult
from focalbench.analysis.published import CARD_RULE, PUBLISHED_FIGURES, ReproductionCard, reproduction_cards
from focalbench.analysis.swept_keys import SweptGrid, swept_grids
from focalbench.analysis.tables import verdict_sentences
from focalbench.records.reader import TrialRecord
from focalbench.records.source import FOLDER, StartedFrom, read_commands
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder
from focalbench.report.curves import Picture, plot_swept_line
from focalbench.report.evidence import Confusion, Evidence, gather_evidence
from focalbench.report.facts import as_text, class_names, ended_at, environment, run_facts
from focalbench.statistics.summary import summarise
from focalbench.tags import CLASS_AP, MEAN_AP

_INTERVAL_WIDTH, _INTERVAL_MARGIN = 200.0, 8.0
# Light to dark blue; the text on it turns white where black could not be read.
_HEAT_LIGHT, _HEAT_DARK = (237, 243, 250), (8, 69, 148)
_EVEN_LUMINANCE = 0.18  # on which black and white are equally readable (WCAG 2, contrast)


@dataclass(frozen=True)
class Interval:
    """Places a confidence interval, and what does not matter in practice, in a box 200 wide; None where an end is
    unknown.
    """

    zero: float
    point: float
    low: float | None
    high: float | None
    margin: tuple[float, float] | None
    words: str


@dataclass(frozen=True)
class VerdictRow:
    """Holds one arm's row of the verdict table; texts are ready to print, empty for the baseline."""

    label: str
    verdict: str
    words: str
    difference: str
    interval: Interval | None
    p: str
    num_pairs: str
    num_seeds: int
    mean: str
    sd: str


@dataclass(frozen=True)
class HeatCell:
    """Holds one cell of a heat map."""

    mean: str
    uncertainty: str
    background: str
    color: str


@dataclass(frozen=True)
class ConfusionTable:
    """Holds the confusion matrix of one trial, ready to print."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[HeatCell]]]


@dataclass(frozen=True)
class SweptPicture:
    """Shows swept keys as a line along the first, or as a heat map: rows of (value, cells), columns in ``columns``."""

    title: str
    keys: tuple[str, ...]
    line: Picture | None
    columns: list[str]
    rows: list[tuple[str, list[HeatCell | None]]]


@dataclass(frozen=True)
class TrialRow:
    """Holds a trial's row of the list of all trials."""

    name: str
    arm: str
    seed: str
    state: str
    value: str
    seconds: str
    images_per_s: str
    ended: str


@dataclass(frozen=True)
class Page:
    """Holds the content of a report; the template says what each part is titled."""

    title: str
    created: str
    lead: list[str]
    facts: list[tuple[str, str]]
    setting_keys: list[str]
    setting_rows: list[tuple[str, list[str]]]
    comparison: Comparison
    rule: str
    words: Sequence[tuple[str, str]]
    verdicts: list[VerdictRow]
    resolution_columns: list[str]
    resolution: list[list[str]]
    resolution_notes: list[str]
    swept: list[SweptPicture]
    sparse: list[str]
    evidence: Evidence
    confusions: list[ConfusionTable]
    classes: list[str]
    class_rows: list[tuple[str, str, list[str]]]
    cards: list[ReproductionCard]
    card_rule: str
    published: Sequence[tuple[str, str, str, str]]
    trials: list[TrialRow]
    environment: list[tuple[str, str]]
    commands: list[str]
    configuration: str


def build_page(
    trials: Sequence[TrialRecord], comparison: Comparison, paths: Sequence[Path], *, created: datetime
) -> Page:
    """Gathers the page; reads logs, detections and test images, trains and evaluates nothing."""
    arms = [result.arm for result in comparison.arms]
    finished = [trial for arm in arms for trial in arm.trials.values()]
    classes = class_names(finished)
    evidence = gather_evidence(comparison, classes)
    grids, metric = swept_grids(comparison.arms), comparison.metric
    paired = [entry for entry in comparison.comparisons if entry.judgement is not None and entry.judgement.n > 1]
    with_images = any(entry.noise is not None for entry in paired)
    keys = _differing_keys(arms)
    sources = {trial.folder.parent: read_commands(trial.folder.parent) for trial in finished}
    names = list(dict.fromkeys(str(trial.config.get("name") or trial.folder.parent.name) for trial in finished))
    return Page(
        title=", ".join(names[:4]),
        created=created.strftime("%Y-%m-%d %H:%M UTC"),
        lead=verdict_sentences(comparison),
        facts=run_facts(finished, trials, classes, evidence.objects_per_class),
        setting_keys=keys,
        setting_rows=[
            (arm.label, [as_text(arm.settings[key]) if key in arm.settings else "" for key in keys]) for arm in arms
        ],
        comparison=comparison,
        rule=comparison.rule,
        words=formats.WORDS,
        verdicts=_verdict_rows(comparison),
        resolution_columns=[*formats.RESOLUTION, *(formats.RESOLUTION_OF_IMAGES if with_images else ())],
        resolution=[formats.resolution_cells(entry, metric, with_images=with_images) for entry in paired],
        resolution_notes=[
            formats.RESOLUTION_NOTE + formats.NEW_IMAGES_NOTE * with_images,
            *formats.resolution_sentences(comparison),
        ],
        swept=[_swept_picture(grid, metric) for grid in grids if grid.form != "sparse"],
        sparse=[grid.title for grid in grids if grid.form == "sparse"],
        evidence=evidence,
        confusions=[_confusion_table(one) for one in evidence.confusions],
        classes=[arm.label for arm in arms],
        class_rows=[_class_row(name, arms, evidence.objects_per_class) for name in classes],
        cards=reproduction_cards(comparison.arms) if metric == MEAN_AP else [],
        card_rule=CARD_RULE,
        published=PUBLISHED_FIGURES,
        trials=[_trial_row(trial, metric) for trial in trials],
        environment=[*environment(finished), *_commits(sources)],
        commands=_commands(arms, sources, paths),
        configuration=_configuration(comparison),
    )


def _verdict_rows(comparison: Comparison) -> list[VerdictRow]:
    against = {entry.arm: entry for entry in comparison.comparisons}
    ends = [0.0] if comparison.margin is None else [-comparison.margin, comparison.margin]
    for entry in comparison.comparisons:
        if entry.judgement is not None:
            values = (entry.judgement.difference, *entry.judgement.ci)
            ends += [value for value in values if math.isfinite(value)]
    span = min(ends), max(ends)
    rows = [_verdict_row(result, against.get(result.arm.label), comparison, *span) for result in comparison.arms]
    rows += [
        VerdictRow(entry.arm, entry.verdict, _words(entry, comparison), "", None, "", "", 0, "-", "-")
        for entry in comparison.without_result
    ]
    return rows


def _words(entry: ArmComparison, comparison: Comparison) -> str:
    words = formats.verdict_words(entry, comparison.metric, comparison.margin)
    return f"{words}: {'; '.join(entry.not_comparable)}" if entry.not_comparable else words


def _verdict_row(
    result: ArmResult, entry: ArmComparison | None, comparison: Comparison, low: float, high: float
) -> VerdictRow:
    summary, metric, margin = result.summary, comparison.metric, comparison.margin
    own = (summary.n, formats.value(summary.mean, metric), formats.value(summary.sd, metric))
    if entry is None:
        word = "baseline" if result.values else "no value"
        return VerdictRow(result.arm.label, word, word, "", None, "", "", *own)
    words, found = _words(entry, comparison), entry.judgement
    if found is None or found.n == 0:
        return VerdictRow(result.arm.label, entry.verdict, words, "", None, "", "", *own)

    def place(value: float) -> float | None:
        if not math.isfinite(value):
            return None
        share = (value - low) / (high - low) if high > low else 0.5
        return round(_INTERVAL_MARGIN + share * (_INTERVAL_WIDTH - 2 * _INTERVAL_MARGIN), 1)

    shaded = None if margin is None else (place(-margin) or 0.0, place(margin) or 0.0)
    text = formats.interval(found.ci, metric) or "no interval from one pair"
    middle = place(found.difference) or 0.0
    drawn = Interval(place(0.0) or 0.0, middle, place(found.ci[0]), place(found.ci[1]), shaded, text)
    figures = formats.difference(found.difference, metric), drawn, formats.p_value(found.p_corrected), str(found.n)
    return VerdictRow(result.arm.label, entry.verdict, words, *figures, *own)


def _swept_picture(grid: SweptGrid, metric: str) -> SweptPicture:
    if grid.form == "line":
        return SweptPicture(grid.title, grid.line_keys, plot_swept_line(grid, metric).embedded(), [], [])
    rows = [(f"{y:g}", [_heat_cell(grid, result, metric) for result in results]) for y, results in grid.rows.items()]
    return SweptPicture(grid.title, grid.keys, None, [f"{x:g}" for x in grid.axis(1)], rows)


def _heat_cell(grid: SweptGrid, result: ArmResult | None, metric: str) -> HeatCell | None:
    if result is None:
        return None
    summary = result.summary
    uncertainty = "one seed" if math.isnan(summary.sd) else f"± {formats.value(summary.sd, metric)}, n {summary.n}"
    return HeatCell(formats.value(summary.mean, metric), uncertainty, *_shade(grid.height(result)))


def _shade(share: float) -> tuple[str, str]:
    """Background and ink of a cell that holds ``share``, in [0, 1], of the most there is."""
    mixed = [round(light + share * (dark - light)) for light, dark in zip(_HEAT_LIGHT, _HEAT_DARK, strict=True)]
    red, green, blue = mixed
    luminance = sum(part * (value / 255) ** 2.2 for part, value in zip((0.2126, 0.7152, 0.0722), mixed, strict=True))
    return f"rgb({red}, {green}, {blue})", "#111" if luminance > _EVEN_LUMINANCE else "#fff"


def _confusion_table(one: Confusion) -> ConfusionTable:
    """Shades each count by its share of the row: of the objects of a class, or of the detections of background."""
    rows = []
    for name, counts in zip([*one.classes, "background"], one.matrix.tolist(), strict=True):
        total = max(sum(counts), 1)
        rows.append((name, [HeatCell(str(count) if count else "", "", *_shade(count / total)) for count in counts]))
    return ConfusionTable(f"{one.label}, seed {one.seed}", [*one.classes, "missed"], rows)


def _class_row(name: str, arms: Sequence[Arm], objects: Mapping[str, int]) -> tuple[str, str, list[str]]:
    cells = []
    for arm in arms:
        metric = f"{CLASS_AP}{name}"
        summary = summarise(list(arm.values(metric).values()))
        spread = "" if math.isnan(summary.sd) else f" ± {formats.value(summary.sd, metric)}"
        cells.append(formats.value(summary.mean, metric) + spread)
    return name, str(objects.get(name, "-")), cells


def _trial_row(trial: TrialRecord, metric: str) -> TrialRow:
    value, seconds, speed = (trial.value(key) if trial.counts else None for key in (metric, "wall_s", "images_per_s"))
    reason = "" if trial.state is TrialState.NEW else trial.reason
    return TrialRow(
        trial.folder.name,
        trial.arm,
        "" if trial.seed is None else str(trial.seed),
        reason or str(trial.state),
        "-" if value is None else formats.value(value, metric),
        "-" if seconds is None else f"{seconds:.0f}",
        "-" if speed is None else f"{speed:.0f}",
        ended_at(trial),
    )


_Sources = Mapping[Path, Sequence[StartedFrom]]
"""What each sweep notes of its commands."""


def _commands(arms: Sequence[Arm], sources: _Sources, paths: Sequence[Path]) -> list[str]:
    """Commands that repeat the finished trials, and the tables and the page from the folders.

    Trials of a sweep that keeps what it was started from are repeated by that, others arm by arm: a trial's own file
    with the arm's seeds makes the same trials.
    """
    lines = [_again(sweep / FOLDER / entry.file, entry.overrides) for sweep in sources for entry in sources[sweep]]
    for arm in arms:
        folder = next(iter(arm.trials.values())).folder
        if not sources[folder.parent]:
            seeds = [f"sweep.seeds=[{','.join(map(str, arm.trials))}]"] if len(arm.trials) > 1 else []
            lines.append(_again(folder / TrialFolder.CONFIG, seeds))
    shown = [str(path) for path in paths]
    lines += [shlex.join(["focalbench", command, *shown]) for command in ("compare", "report")]
    return list(dict.fromkeys(lines))


def _again(config: Path, overrides: Sequence[str]) -> str:
    settings = [word for override in overrides for word in ("-s", override)]
    return shlex.join(["focalbench", "run", str(config), *settings, "--out", "runs/again"])


def _commits(sources: _Sources) -> list[tuple[str, str]]:
    """What commits the sweeps' files were of, as a row of the environment."""
    words = dict.fromkeys(entry.commit for entries in sources.values() for entry in entries if entry.commit)
    return [("commit", "; ".join(words))] if words else []


def _configuration(comparison: Comparison) -> str:
    """The resolved configuration of the baseline's first trial, as YAML; empty where it has none."""
    arm = next((r.arm for r in comparison.arms if r.arm.label == comparison.baseline), comparison.arms[0].arm)
    config = next(iter(arm.trials.values())).config
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100) if config else ""


def _differing_keys(arms: Sequence[Arm]) -> list[str]:
    keys = dict.fromkeys(key for arm in arms for key in arm.settings)
    return [key for key in keys if len({as_text(arm.settings.get(key, "")) for arm in arms}) > 1]
