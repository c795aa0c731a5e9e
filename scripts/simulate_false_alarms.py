"""How often the verdict of `focalbench compare` is a false alarm, and how often it finds a true difference.

Prints Markdown tables; those in docs/statistics.md are its output.
Usage: python scripts/simulate_false_alarms.py [SWEEPS]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from focalbench.analysis.simulation import RULES, false_alarm_table, power_table

Row = dict[str, float | int | str]


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
