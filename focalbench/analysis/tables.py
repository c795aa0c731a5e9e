"""Lays a comparison out as the table of arms and verdicts: rows of numbers, and the same for papers and pages.

Every writer is a function of a comparison alone and shows the cells that ``focalbench compare`` shows.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from focalbench import console
from focalbench.analysis import formats
from focalbench.analysis.comparison import Comparison
from focalbench.analysis.judged_arms import ArmComparison, ArmResult
from focalbench.statistics.summary import Summary
from focalbench.statistics.verdict import DIFFERENT, MIN_SEEDS

COLUMNS = ("arm", "n", "mean", "sd", "difference", "95 % CI", "p (Holm)", "verdict")
"""Headings of :func:`verdict_cells`."""
_TEXT_COLUMNS = ("arm", "verdict")
_MEAN = COLUMNS.index("mean")
_BASELINE = "baseline"
_BETTER = "better"
_ORDER = ("better", "higher", "worse", "lower", "no practical difference", "unstable", "undecided")

_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
_LAST_LATIN = "\u017f"  # what LaTeX itself sets of UTF-8 text ends about here
_MARKDOWN = {letter: f"\\{letter}" for letter in "\\`*_{}[]#|"} | {"$": "&#36;", "~": "&#126;"}


@dataclass(frozen=True)
class ArmRow:
    """Holds what a comparison says of one arm: numbers in the metric's own unit, nan where there is none.

    Attributes:
        arm: its name.
        n: seeds with a value.
        mean, sd: over these.
        pairs: seeds that the arm and the baseline both have; 0 for the baseline itself.
        difference: mean over the pairs of arm minus baseline.
        ci: 95 % interval of the difference; those of all arms hold together.
        p: two-sided, corrected for all arms, so that it is held against .05 (Holm); ``p_corrected`` in files.
        p_uncorrected: of this arm alone; ``p`` in files.
        verdict: the word: better, worse, no practical difference, undecided, ..., or ``baseline``.
        words: the verdict with its figures, as tables show it.
        not_comparable: keys that differ though they must not, with both values.
    """

    arm: str
    n: int
    mean: float
    sd: float
    pairs: int = 0
    difference: float = math.nan
    ci: tuple[float, float] = (math.nan, math.nan)
    p: float = math.nan
    p_uncorrected: float = math.nan
    verdict: str = ""
    words: str = ""
    not_comparable: tuple[str, ...] = ()


def arm_rows(comparison: Comparison) -> tuple[ArmRow, ...]:
    """Returns a row for each arm, the best mean first; arms without any result come last."""
    against = {entry.arm: entry for entry in comparison.comparisons}
    rows = [_row(result, against.get(result.arm.label), comparison) for result in comparison.ranked]
    none = Summary(0, math.nan, math.nan)
    return (*rows, *(_compared_row(entry, none, comparison) for entry in comparison.without_result))


def _row(result: ArmResult, entry: ArmComparison | None, comparison: Comparison) -> ArmRow:
    if entry is not None:
        return _compared_row(entry, result.summary, comparison)
    word = _BASELINE if result.values else ""
    summary = result.summary
    return ArmRow(result.arm.label, summary.n, summary.mean, summary.sd, verdict=word, words=word)


def _compared_row(entry: ArmComparison, own: Summary, comparison: Comparison) -> ArmRow:
    row = ArmRow(
        entry.arm,
        own.n,
        own.mean,
        own.sd,
        verdict=entry.verdict,
        words=formats.verdict_words(entry, comparison.metric, comparison.margin),
        not_comparable=entry.not_comparable,
    )
    found = entry.judgement
    if found is None or found.n == 0:
        return row
    p, p_alone = found.p_corrected, found.p
    return replace(row, pairs=found.n, difference=found.difference, ci=found.ci, p=p, p_uncorrected=p_alone)


def verdict_cells(comparison: Comparison) -> list[list[str]]:
    """Returns the table of arms and verdicts as text, a cell for each of ``COLUMNS``."""
    return [cells for _, cells in _rows_with_cells(comparison)]


def _rows_with_cells(comparison: Comparison) -> list[tuple[ArmRow, list[str]]]:
    return [(row, _cells(row, comparison.metric)) for row in arm_rows(comparison)]


def _shown_best(comparison: Comparison) -> ArmRow | None:
    """The arm with the best mean, if the verdict says that it is better than the baseline."""
    first, *_ = arm_rows(comparison) or (None,)
    return first if first is not None and first.verdict == _BETTER else None


def _cells(row: ArmRow, metric: str) -> list[str]:
    values = [formats.value(row.mean, metric), formats.value(row.sd, metric)] if row.n else ["", ""]
    own = [row.arm, str(row.n), *values]
    if not row.pairs:
        return [*own, "", "", "", row.words]
    differs = [formats.difference(row.difference, metric), formats.interval(row.ci, metric)]
    return [*own, *differs, formats.p_value(row.p), row.words]


def title(comparison: Comparison) -> str:
    """Returns what the table is called: ``val/mAP in points, differences from ce``."""
    to_what = f", differences from {comparison.baseline}" if comparison.baseline else ""
    return formats.heading(comparison.metric) + to_what


def rule(comparison: Comparison) -> str:
    """Returns what stands below the table: how its words come about."""
    return comparison.rule if comparison.baseline else "One arm: nothing to compare it with."


def verdict_sentences(comparison: Comparison) -> list[str]:
    """Returns the answer in sentences that can be quoted: which arms are better, worse, alike or undecided."""
    if comparison.baseline is None:
        return [rule(comparison)]
    metric = comparison.metric
    groups: dict[str, list[str]] = {word: [] for word in _ORDER}
    for entry in comparison.comparisons:
        label = entry.arm
        if entry.judgement is not None and entry.verdict in DIFFERENT:
            label = f"{label} ({formats.difference(entry.judgement.difference, metric)}{formats.unit(metric)})"
        groups.setdefault(entry.verdict, []).append(label)
    within = f" within {formats.points_words(comparison.margin)}" if comparison.margin is not None else ""
    titles = {"no practical difference": f"No practical difference{within}"}
    sentences = [
        f"{titles.get(word, word.capitalize().replace(':', ','))}: {', '.join(labels)}."
        for word, labels in groups.items()
        if labels
    ]
    sentences += [
        f"{entry.arm} failed in seed{'s'[: len(entry.failures.seeds) > 1]} "
        f"{', '.join(map(str, entry.failures.seeds))}: its difference is that of the other seeds."
        for entry in comparison.comparisons
        if entry.failures is not None
    ]
    counted = [len(entry.seeds) for entry in comparison.comparisons if entry not in comparison.without_result]
    if counted and min(counted) < MIN_SEEDS:
        sentences.append(
            f"A claim needs at least {MIN_SEEDS} paired seeds; the arm with the fewest has {min(counted)}."
        )
    return [f"{metric} against {comparison.baseline}, paired by seed.", *sentences]


def plain_text(comparison: Comparison) -> str:
    """Writes the table in aligned columns without colours, with its title, its rule and the warnings."""
    warnings = [f"warning: {warning}" for warning in comparison.warnings]
    table = console.plain_table_text(COLUMNS, verdict_cells(comparison), title=title(comparison))
    return "\n".join([table, rule(comparison), *warnings])


def latex(comparison: Comparison) -> str:
    """Writes the table for LaTeX: a ``tabular`` with booktabs' rules; a comment on top says what it needs.

    The best mean is bold where its arm is better than the baseline by the verdict, and nowhere else.
    """
    best = _shown_best(comparison)
    body = [_latex_row(_latex_cells(cells, strong=row == best)) for row, cells in _rows_with_cells(comparison)]
    needs = r"\usepackage{booktabs}"
    if any(letter > _LAST_LATIN for line in body for letter in line):
        needs += ", and XeLaTeX or LuaLaTeX with a font that has the letters of the names"
    columns = "".join("l" if column in _TEXT_COLUMNS else "r" for column in COLUMNS)
    lines = [
        f"% {_one_line(title(comparison))}; needs {needs}",
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row([latex_text(column) for column in COLUMNS]),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cells(cells: Sequence[str], *, strong: bool) -> list[str]:
    arm, *others = (latex_text(cell) for cell in cells)
    # A sign before a digit; elsewhere a hyphen is one.
    signed = [re.sub(r"(?<![^\s(])-(?=[\d.])", "$-$", cell) for cell in others]
    row = [arm, *signed]
    if strong:
        row[_MEAN] = rf"\textbf{{{row[_MEAN]}}}"
    return row


def latex_text(text: str) -> str:
    """Escapes ``text`` for LaTeX; it stays one line."""
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def markdown(comparison: Comparison) -> str:
    """Writes the table as Markdown, with its title above and its rule below; bold as in :func:`latex`."""
    best, rows = _shown_best(comparison), []
    for row, cells in _rows_with_cells(comparison):
        escaped = [markdown_text(cell) for cell in cells]
        if row == best:
            escaped[_MEAN] = f"**{escaped[_MEAN]}**"
        rows.append(escaped)
    alignment = ["---" if column in _TEXT_COLUMNS else "---:" for column in COLUMNS]
    table = markdown_table(COLUMNS, rows, alignment)
    return "\n\n".join([markdown_text(title(comparison)), table, markdown_text(rule(comparison))]) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], alignment: Sequence[str] = ()) -> str:
    """Writes a table of cells that are Markdown already.

    Args:
        alignment: ``---`` or ``---:`` for each column; empty: all to the left.
    """
    lines = [columns, alignment or ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    """Returns ``text`` without what Markdown or HTML would take for a command; it stays one line."""
    escaped = html.escape(_one_line(text), quote=False)
    return "".join(_MARKDOWN.get(letter, letter) for letter in escaped)


def html_table(comparison: Comparison) -> str:
    """Writes the table as HTML that asks for nothing and takes its colours from the page around it."""
    body = [_html_row(row, comparison) for row in arm_rows(comparison)]
    head = "".join(_html_cell("th", column, column) for column in COLUMNS)
    parts = [
        "<table>",
        f'<caption style="text-align: left">{_html(title(comparison))}</caption>',
        f"<thead><tr>{head}</tr></thead>",
        f"<tbody>{''.join(body)}</tbody>",
        "</table>",
        f"<p><small>{_html(rule(comparison))}</small></p>",
    ]
    if comparison.warnings:
        parts.append(f"<ul>{''.join(f'<li>{_html(warning)}</li>' for warning in comparison.warnings)}</ul>")
    return f"<div>{''.join(parts)}</div>"


def _html_row(row: ArmRow, comparison: Comparison) -> str:
    strong = {"arm"} if row.verdict == _BASELINE else {"verdict"} if row.verdict in DIFFERENT else set()
    cells = zip(COLUMNS, _cells(row, comparison.metric), strict=True)
    return f"<tr>{''.join(_html_cell('td', column, cell, strong=column in strong) for column, cell in cells)}</tr>"


def _html_cell(tag: str, column: str, text: str, *, strong: bool = False) -> str:
    side = "left" if column in _TEXT_COLUMNS else "right"
    content = f"<b>{_html(text)}</b>" if strong else _html(text)
    return f'<{tag} style="text-align: {side}">{content}</{tag}>'


def _html(text: str) -> str:
    return html.escape(_one_line(text))


def _one_line(text: str) -> str:
    """``text`` without line breaks and control characters: names come from files that anybody may have written."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
