"""Figures that stand alone: files of both kinds, the same each time, with names that no figure takes for markup."""

import re
from collections.abc import Callable
from pathlib import Path

import defusedxml.ElementTree
import pytest

from focalbench.analysis import formats
from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.records.reader import read_trials
from focalbench.report.paper_figures import plot_verdicts, write_figures

CE = [0.500, 0.505, 0.495, 0.502, 0.498, 0.501]
ARMS: dict[str, list[float | None]] = {"ce": CE, "$\\frac{1$": [v - 0.05 for v in CE], "close": [*CE[1:], CE[0]]}


@pytest.fixture
def comparison(write_arms: Callable[..., Path]) -> Comparison:
    log = [{"step": step, "val/mAP": 0.1 * step} for step in (1, 2)]
    return compare_trials(read_trials([write_arms(ARMS, log=log)]))


def test_each_figure_is_a_pdf_and_an_svg_and_the_same_each_time(comparison: Comparison, tmp_path: Path) -> None:
    first, again = (write_figures(comparison, tmp_path / name / "figures") for name in ("a", "b"))
    names = ("verdicts", "mean_ap_over_steps", "class_ap", "over_loss_label")
    assert {path.name for path in first} == {f"{name}.{kind}" for name in names for kind in ("pdf", "svg")}
    for path, other in zip(first, again, strict=True):
        content = path.read_bytes()
        assert content == other.read_bytes()
        if path.suffix == ".pdf":
            assert content.startswith(b"%PDF")
            assert b"/Type3" not in content
        else:
            defusedxml.ElementTree.fromstring(content)
            assert not re.search(rb'(href|src)="(?!#)', content)


def test_the_verdicts_say_what_the_table_says_the_best_on_top(comparison: Comparison) -> None:
    plot = plot_verdicts(comparison)
    assert plot is not None
    assert plot.alt.startswith("val/mAP, difference from ce in points, with 95 % intervals: close: ")
    assert plot.figure.axes[0].get_xlabel() == "val/mAP in points,\ndifference from ce"
    assert plot.alt.endswith("$\\frac{1$: -5.00 (worse)")
    (axes,) = plot.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["\\$\\frac{1\\$", "close"]
    words = [formats.verdict_words(entry, "val/mAP", comparison.margin) for entry in comparison.comparisons]
    (right,) = axes.child_axes
    assert {label.get_text() for label in right.get_yticklabels()} == {*words}  # none is cut


def test_an_arm_that_always_failed_stands_below_with_its_verdict_alone(
    write_arms: Callable[..., Path], write_trial: Callable[..., Path]
) -> None:
    runs = write_arms({"ce": CE, "close": [*CE[1:], CE[0]]})
    for seed in range(len(CE)):
        lost = write_trial(f"runs/test/failed-s{seed}", arm="failed", seed=seed, status={"state": "failed"})
        (lost / "result.json").unlink()
    plot = plot_verdicts(compare_trials(read_trials([runs])))
    assert plot is not None
    (axes,) = plot.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["failed", "close"]
    (right,) = axes.child_axes
    assert right.get_yticklabels()[0].get_text().startswith("unstable: failed 6 of 6 seeds")
    level = [line for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert {line.get_ydata()[0] for line in level} == {1}  # nothing is drawn in its row, 0
    assert plot.alt.endswith("failed: unstable")


def test_without_a_difference_there_is_no_figure_of_verdicts(write_arms: Callable[..., Path], tmp_path: Path) -> None:
    alone = compare_trials(read_trials([write_arms({"ce": CE})]))
    assert plot_verdicts(alone) is None
    assert "verdicts.pdf" not in {path.name for path in write_figures(alone, tmp_path / "f")}
