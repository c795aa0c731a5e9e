"""Gathers everything the page says, as plain records; the template only lays it out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import yaml

from focalbench.analysis.arms import Arm
from focalbench.analysis.comparison import RULE, ArmComparison, ArmResult, Comparison
from focalbench.analysis.formats import interval, number, p_value, resolution_cells, signed
from focalbench.analysis.published import PUBLISHED_FIGURES, ReproductionCard, reproduction_cards
from focalbench.analysis.statistics import MIN_SEEDS, summarise, t_interval
from focalbench.analysis.swept_keys import SweptGrid, swept_grids
from focalbench.records.reader import TrialRecord
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder
from focalbench.report.curves import Picture, plot_swept_line
from focalbench.report.evidence import Evidence, gather_evidence
from focalbench.report.facts import as_text, class_names, ended_at, environment, run_facts
from focalbench.tags import CLASS_AP, MEAN_AP

_INTERVAL_WIDTH, _INTERVAL_MARGIN = 200.0, 8.0
# Light to dark blue; the text on it turns white where black could not be read.
_HEAT_LIGHT, _HEAT_DARK = (237, 243, 250), (8, 69, 148)
_EVEN_LUMINANCE = 0.18  # on which black and white are equally readable (WCAG 2, contrast)
_VERDICT_ORDER = ("better", "higher", "worse", "lower", "no difference shown")


@dataclass(frozen=True)
class Interval:
    """Places a confidence interval in a box 200 wide; None where an end is unknown."""

    zero: float
    point: float
    low: float | None
    high: float | None
    words: str


@dataclass(frozen=True)
class VerdictRow:
    """Holds one arm's row of the verdict table; texts are ready to print, empty for the baseline."""

    label: str
    verdict: str
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
    verdicts: list[VerdictRow]
    resolution: list[list[str]]
    swept: list[SweptPicture]
    sparse: list[str]
    evidence: Evidence
    classes: list[str]
    class_rows: list[tuple[str, str, list[str]]]
    cards: list[ReproductionCard]
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
    grids = swept_grids(comparison.arms)
    keys = _differing_keys(arms)
    names = list(dict.fromkeys(str(trial.config.get("name") or trial.folder.parent.name) for trial in finished))
    return Page(
        title=", ".join(names[:4]),
        created=created.strftime("%Y-%m-%d %H:%M UTC"),
        lead=_lead(comparison),
        facts=run_facts(finished, trials, classes, evidence.objects_per_class),
        setting_keys=keys,
        setting_rows=[
            (arm.label, [as_text(arm.settings[key]) if key in arm.settings else "" for key in keys]) for arm in arms
        ],
        comparison=comparison,
        rule=RULE,
        verdicts=_verdict_rows(comparison),
        resolution=[resolution_cells(entry) for entry in comparison.comparisons if entry.paired is not None],
        swept=[_swept_picture(grid, comparison.metric) for grid in grids if grid.form != "sparse"],
        sparse=[grid.title for grid in grids if grid.form == "sparse"],
        evidence=evidence,
        classes=[arm.label for arm in arms],
        class_rows=[_class_row(name, arms, evidence.objects_per_class) for name in classes],
        cards=reproduction_cards(comparison.arms) if comparison.metric == MEAN_AP else [],
        published=PUBLISHED_FIGURES,
        trials=[_trial_row(trial, comparison.metric) for trial in trials],
        environment=environment(finished),
        commands=_commands(arms, paths),
        configuration=_configuration(comparison),
    )


def _lead(comparison: Comparison) -> list[str]:
    """The answer, before any table."""
    if comparison.baseline is None:
        return ["One arm: nothing to compare it with."]
    groups: dict[str, list[str]] = {words: [] for words in _VERDICT_ORDER}
    for entry in comparison.comparisons:
        words = entry.verdict
        if words in ("better", "worse", "higher", "lower") and entry.paired is not None:
            groups.setdefault(words, []).append(f"{entry.arm} ({signed(entry.paired.difference)})")
        else:
            groups.setdefault(words, []).append(entry.arm)
    sentences = [
        f"{words.capitalize().replace(':', ',')}: {', '.join(labels)}." for words, labels in groups.items() if labels
    ]
    sentences += [
        f"{arm} failed in seed {', '.join(map(str, seeds))}: what is said of it is of the seeds in which it did not."
        for arm, seeds in comparison.failed.items()
    ]
    fewest = min((len(e.seeds) for e in comparison.comparisons if e not in comparison.stopped), default=MIN_SEEDS)
    if fewest < MIN_SEEDS:
        sentences.append(f"A claim needs at least {MIN_SEEDS} paired seeds; the arm with the fewest has {fewest}.")
    return [f"{comparison.metric} against {comparison.baseline}, paired by seed.", *sentences]


def _verdict_rows(comparison: Comparison) -> list[VerdictRow]:
    against = {entry.arm: entry for entry in comparison.comparisons}
    ends = [0.0]
    for entry in comparison.comparisons:
        if entry.paired is not None:
            ends += [value for value in (entry.paired.difference, *entry.paired.ci) if math.isfinite(value)]
    rows = [_verdict_row(result, against.get(result.arm.label), min(ends), max(ends)) for result in comparison.arms]
    for entry in comparison.stopped:
        words = f"{entry.verdict}: {'; '.join(entry.not_comparable)}"
        rows.append(VerdictRow(entry.arm, words, "", None, "", "", 0, "-", "-"))
    return rows


def _verdict_row(result: ArmResult, entry: ArmComparison | None, low: float, high: float) -> VerdictRow:
    summary = result.summary
    own = (summary.n, number(summary.mean), number(summary.sd))
    if entry is None:
        return VerdictRow(result.arm.label, "baseline" if result.values else "no value", "", None, "", "", *own)
    if entry.paired is None:
        words = f"{entry.verdict}: {'; '.join(entry.not_comparable)}"
        return VerdictRow(result.arm.label, words, "", None, "", "", *own)
    pair = entry.paired

    def place(value: float) -> float | None:
        if not math.isfinite(value):
            return None
        share = (value - low) / (high - low) if high > low else 0.5
        return round(_INTERVAL_MARGIN + share * (_INTERVAL_WIDTH - 2 * _INTERVAL_MARGIN), 1)

    words = interval(pair.ci) or "no interval from one pair"
    ends = Interval(place(0.0) or 0.0, place(pair.difference) or 0.0, place(pair.ci[0]), place(pair.ci[1]), words)
    figures = signed(pair.difference), ends, p_value(entry.p_corrected), str(pair.n)
    return VerdictRow(result.arm.label, entry.verdict, *figures, *own)


def _swept_picture(grid: SweptGrid, metric: str) -> SweptPicture:
    if grid.form == "line":
        return SweptPicture(grid.title, grid.line_keys, plot_swept_line(grid, metric), [], [])
    rows = [(f"{y:g}", [_heat_cell(grid, result) for result in results]) for y, results in grid.rows.items()]
    return SweptPicture(grid.title, grid.keys, None, [f"{x:g}" for x in grid.axis(1)], rows)


def _heat_cell(grid: SweptGrid, result: ArmResult | None) -> HeatCell | None:
    if result is None:
        return None
    share = grid.height(result)
    mixed = [round(light + share * (dark - light)) for light, dark in zip(_HEAT_LIGHT, _HEAT_DARK, strict=True)]
    upper = t_interval(np.array(list(result.values.values())))[1]
    uncertainty = "one seed" if math.isnan(upper) else f"± {number(upper - result.summary.mean)}, n {result.summary.n}"
    red, green, blue = mixed
    luminance = sum(part * (value / 255) ** 2.2 for part, value in zip((0.2126, 0.7152, 0.0722), mixed, strict=True))
    ink = "#111" if luminance > _EVEN_LUMINANCE else "#fff"
    return HeatCell(number(result.summary.mean), uncertainty, f"rgb({red}, {green}, {blue})", ink)


def _class_row(name: str, arms: Sequence[Arm], objects: Mapping[str, int]) -> tuple[str, str, list[str]]:
    cells = []
    for arm in arms:
        summary = summarise(list(arm.values(f"{CLASS_AP}{name}").values()))
        cells.append(number(summary.mean) + ("" if math.isnan(summary.sd) else f" ± {number(summary.sd)}"))
    return name, str(objects.get(name, "-")), cells


def _trial_row(trial: TrialRecord, metric: str) -> TrialRow:
    value, seconds, speed = (trial.value(key) if trial.counts else None for key in (metric, "wall_s", "images_per_s"))
    reason = "" if trial.state is TrialState.NEW else trial.reason
    return TrialRow(
        trial.folder.name,
        trial.arm,
        "" if trial.seed is None else str(trial.seed),
        reason or str(trial.state),
        "-" if value is None else number(value),
        "-" if seconds is None else f"{seconds:.0f}",
        "-" if speed is None else f"{speed:.0f}",
        ended_at(trial),
    )


def _commands(arms: Sequence[Arm], paths: Sequence[Path]) -> list[str]:
    """Commands that repeat the finished trials arm by arm, and the tables and the page from the folders.

    The file that a sweep was started with is not kept; a trial's own with the arm's seeds makes the same trials.
    """
    lines = []
    for arm in arms:
        config = next(iter(arm.trials.values())).folder / TrialFolder.CONFIG
        seeds = ["-s", f"sweep.seeds=[{','.join(map(str, arm.trials))}]"] if len(arm.trials) > 1 else []
        lines.append(shlex.join(["focalbench", "run", str(config), *seeds, "--out", "runs/again"]))
    shown = [str(path) for path in paths]
    return [*lines, shlex.join(["focalbench", "compare", *shown]), shlex.join(["focalbench", "report", *shown])]


def _configuration(comparison: Comparison) -> str:
    """The resolved configuration of the baseline's first trial, as YAML; empty where it has none."""
    arm = next((r.arm for r in comparison.arms if r.arm.label == comparison.baseline), comparison.arms[0].arm)
    config = next(iter(arm.trials.values())).config
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100) if config else ""


def _differing_keys(arms: Sequence[Arm]) -> list[str]:
    keys = dict.fromkeys(key for arm in arms for key in arm.settings)
    return [key for key in keys if len({as_text(arm.settings.get(key, "")) for arm in arms}) > 1]
