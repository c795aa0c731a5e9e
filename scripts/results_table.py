"""The table of ``focalbench compare`` as Markdown, as docs/results.md has it.

python scripts/results_table.py runs/scale [PATH]... [--baseline ARM] [--metric NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from focalbench.analysis import formats
from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.analysis.judged_arms import ArmComparison, ArmResult
from focalbench.records.reader import read_trials
from focalbench.statistics.verdict import MIN_SEEDS


def markdown(comparison: Comparison) -> Iterator[str]:
    """The table's lines."""
    against = {entry.arm: entry for entry in comparison.comparisons}
    reference = comparison.baseline or "-"
    metric = formats.heading(comparison.metric).removeprefix("val/")
    columns = ["arm", "n", metric, "sd", f"difference to {reference}, 95 % CI"]
    yield _row([*columns, "p (Holm)", "verdict"])
    yield _row(["---"] * (len(columns) + 2))
    for result in comparison.arms:
        differs = _difference(against.get(result.arm.label), comparison)
        yield _row([*_figures(result, comparison.metric), *differs])
    for entry in comparison.without_result:
        yield _row([entry.arm, "0", "", "", "", "", entry.verdict])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _figures(result: ArmResult, metric: str) -> list[str]:
    summary = result.summary
    sd = formats.value(summary.sd, metric) if summary.n > 1 else ""
    return [result.arm.label, str(summary.n), formats.value(summary.mean, metric), sd]


def _difference(entry: ArmComparison | None, comparison: Comparison) -> list[str]:
    if entry is None:
        return ["", "", "baseline"]
    found, metric = entry.judgement, comparison.metric
    words = formats.verdict_words(entry, metric, comparison.margin)
    if found is None or found.n == 0:
        return ["", "", words]
    interval = f" [{formats.interval(found.ci, metric).replace(' to ', ', ')}]" if found.n > 1 else ""
    p = formats.p_value(found.p_corrected) if found.n >= MIN_SEEDS else ""
    return [formats.difference(found.difference, metric) + interval, p, words]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--baseline")
    parser.add_argument("--metric", default="val/mAP")
    options = parser.parse_args()
    trials = read_trials(options.paths)
    found = compare_trials(trials, baseline=options.baseline, metric=options.metric, with_test_set_noise=False)
    print("\n".join(markdown(found)))


if __name__ == "__main__":
    main()
