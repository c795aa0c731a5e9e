"""The table of ``focalbench compare`` as Markdown, as docs/results.md has it.

python scripts/results_table.py runs/scale [PATH]... [--baseline ARM] [--metric NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from focalbench.analysis.comparison import ArmComparison, ArmResult, Comparison, compare_trials
from focalbench.analysis.formats import number, p_value, signed
from focalbench.records.reader import read_trials


def markdown(comparison: Comparison) -> Iterator[str]:
    """The table's lines."""
    against = {entry.arm: entry for entry in comparison.comparisons}
    reference = comparison.baseline or "-"
    columns = ["arm", "n", comparison.metric.removeprefix("val/"), "sd", f"difference to {reference}, 95 % CI"]
    yield _row([*columns, "p (Holm)", "verdict"])
    yield _row(["---"] * (len(columns) + 2))
    for result in comparison.arms:
        yield _row([*_figures(result), *_difference(against.get(result.arm.label))])
    for entry in comparison.stopped:
        yield _row([entry.arm, "0", "", "", "", "", entry.verdict])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _figures(result: ArmResult) -> list[str]:
    summary = result.summary
    return [result.arm.label, str(summary.n), number(summary.mean), number(summary.sd) if summary.n > 1 else ""]


def _difference(entry: ArmComparison | None) -> list[str]:
    if entry is None:
        return ["", "", "baseline"]
    if entry.paired is None:
        return ["", "", entry.verdict]
    low, high = entry.paired.ci
    interval = f" [{signed(low)}, {signed(high)}]" if entry.paired.n > 1 else ""
    p = p_value(entry.p_corrected) if entry.paired.n > 1 else ""
    return [signed(entry.paired.difference) + interval, p, entry.verdict]


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
