"""The verdict as TensorBoard's TEXT page shows it: compare's table, what the arms differ in, how to repeat."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from focalbench.analysis import formats
from focalbench.analysis.comparison import Comparison
from focalbench.analysis.judged_arms import ArmComparison, ArmResult
from focalbench.analysis.tables import markdown_table, markdown_text, rule
from focalbench.figures.lettering import undrawable
from focalbench.records.reader import TrialRecord
from focalbench.records.state import TrialState

_MAX_LISTED = 20  # arms of a part that says what went wrong


def verdict_text(
    name: str,
    trials: Sequence[TrialRecord],
    comparison: Comparison | None,
    differs: Mapping[str, Mapping[str, Any]],
    command: str,
) -> str:
    """Returns the page as markdown.

    Args:
        name: of the run's folder.
        trials: all of the sweep, those not begun among them.
        comparison: what is known so far; None before a trial has finished.
        differs: what the sweep sets, by arm.
        command: that trains what is left, and nothing anew; empty where it is not known.
    """
    unfinished = [trial for trial in trials if not trial.state.is_final]
    title = f"# {name}: {'so far' if unfinished else 'verdict'}"
    parts = [title, _counts(trials), *_verdicts(comparison), *_differences(differs)]
    if comparison is not None and comparison.warnings:
        parts += ["## To keep in mind", "\n".join(f"- {markdown_text(warning)}" for warning in comparison.warnings)]
    parts += _failures(trials) + _class_numbers(trials)
    parts += ["## To repeat", _commands(name, command)]
    return "\n\n".join(parts) + "\n"


def _counts(trials: Sequence[TrialRecord]) -> str:
    counts = Counter(trial.state for trial in trials)
    done = counts.pop(TrialState.DONE, 0)
    words = {TrialState.NEW: "waiting"}
    rest = "".join(f", {count} {words.get(state, state)}" for state, count in sorted(counts.items()))
    return f"{done} of {len(trials)} {'trial' if len(trials) == 1 else 'trials'} done{rest}."


def _verdicts(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return ["No trial has finished yet."]
    against = {entry.arm: entry for entry in comparison.comparisons}
    rows = [_row(result, against.get(result.arm.label), comparison) for result in comparison.ranked]
    rows += [
        [_code(entry.arm), "0", "", "", "", "", formats.verdict_words(entry, comparison.metric, comparison.margin)]
        for entry in comparison.without_result
    ]
    base = f"minus {_code(comparison.baseline)}" if comparison.baseline else "difference"
    columns = ["arm", "n", "mean mAP in points (sd)", base, "95 % interval", "p (Holm)", "verdict"]
    return [
        markdown_table(columns, rows),
        markdown_text(rule(comparison)),
    ]


def _row(result: ArmResult, entry: ArmComparison | None, comparison: Comparison) -> list[str]:
    summary, metric = result.summary, comparison.metric
    mean = f"{formats.value(summary.mean, metric)} ({formats.value(summary.sd, metric)})"
    row = [_code(result.arm.label), str(summary.n), mean]
    if entry is None:
        return [*row, "", "", "", "baseline"]
    found = entry.judgement
    if found is None:
        return [*row, "", "", "", f"{entry.verdict}: {markdown_text('; '.join(entry.not_comparable))}"]
    words = formats.verdict_words(entry, metric, comparison.margin)
    words = f"**{words}**" if entry.verdict in ("better", "worse") else words
    differs = [formats.difference(found.difference, metric), formats.interval(found.ci, metric)]
    return [*row, *differs, formats.p_value(found.p_corrected), words]


def _differences(differs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [_code(arm), ", ".join(_code(f"{key}={_value(value)}") for key, value in values.items()) or "nothing is swept"]
        for arm, values in differs.items()
    ]
    return ["## Arms", markdown_table(["arm", "what it sets"], rows)]


def _failures(trials: Sequence[TrialRecord]) -> list[str]:
    failed = [trial for trial in trials if trial.state in (TrialState.FAILED, TrialState.UNREADABLE)]
    if not failed:
        return []
    lines = [f"- {_code(trial.folder.name)}: {markdown_text(trial.reason)}" for trial in failed[:_MAX_LISTED]]
    lines += [f"- and {len(failed) - _MAX_LISTED} more"] if len(failed) > _MAX_LISTED else []
    return ["## Failed", "\n".join(lines)]


def _class_numbers(trials: Sequence[TrialRecord]) -> list[str]:
    """The names of classes that stand as numbers on the pictures: no font here has their letters."""
    classes = next((trial.result.classes for trial in trials if trial.result.classes), None)
    if classes is None or all(name.isascii() for name in classes):  # looking for fonts takes a while
        return []
    lines = [f"- {_code(f'#{label}')} is {markdown_text(name)}" for label, name in undrawable(classes).items()]
    return ["## Numbers of classes on the pictures", "\n".join(lines)] if lines else []


def _commands(name: str, command: str) -> str:
    lines = [command] if command else []
    lines += [f"focalbench compare runs/{name}", f"focalbench report runs/{name}"]
    return "\n".join(f"    {line}" for line in lines)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _code(text: str | None) -> str:
    """``text`` as it is, whatever it holds; a backtick or a bar would end the cell."""
    return f"`{str(text).replace('`', chr(39)).replace('|', '/')}`"
