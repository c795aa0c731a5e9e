"""scripts/results_table.py: the tables of docs/results.md."""

from collections.abc import Callable
from pathlib import Path

from results_table import markdown

from focalbench.analysis.comparison import compare_trials
from focalbench.records.reader import read_trials

Write = Callable[..., Path]


def table(run: Path) -> list[list[str]]:
    lines = list(markdown(compare_trials(read_trials([run]), with_test_set_noise=False)))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_an_arm_with_interval_and_verdict(write_arms: Write) -> None:
    run = write_arms({"ce": [0.5, 0.51, 0.5, 0.52, 0.5, 0.51], "focal": [0.6, 0.61, 0.61, 0.62, 0.6, 0.62]})
    head, rule, ce, focal = table(run)
    assert head[2] == "mAP in points"
    assert head[-3:] == ["difference to ce, 95 % CI", "p (Holm)", "verdict"]
    assert {len(row) for row in (head, rule, ce, focal)} == {7}
    assert ce[:3] + ce[-1:] == ["ce", "6", "50.67", "baseline"]
    assert focal[4].startswith("+10.33 [+")
    assert focal[-1] == "better"


def test_one_seed_has_no_interval(write_arms: Write) -> None:
    *_, focal = table(write_arms({"ce": [0.5], "focal": [0.6]}))
    assert focal[3:] == ["", "+10.00", "", "one seed: no claim"]
