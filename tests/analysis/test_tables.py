"""The table of arms and verdicts for papers and pages: the cells of ``compare``, whatever the names of arms hold."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import markdown as markdown_package
import pytest

from focalbench.analysis import tables
from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.cli.compare import verdict_table
from focalbench.records.reader import read_trials

_ODD = r"a_b & 50 % <i>$x$ #1 {~^} \ | *ü*"
_CE = [0.50, 0.51, 0.52, 0.50, 0.51, 0.52]
_WORSE = [0.40, 0.42, 0.41, 0.41, 0.41, 0.43]


@pytest.fixture
def comparison(write_arms: Callable[..., Path]) -> Comparison:
    """One arm with an odd name is worse than cross entropy over six seeds, another has one seed."""
    folder = write_arms({"ce": _CE, _ODD.replace("/", ""): _WORSE, "single": [0.9]})
    return compare_trials(read_trials([folder]))


@pytest.fixture
def cells(comparison: Comparison) -> list[list[str]]:
    return tables.verdict_cells(comparison)


def test_rows_hold_the_numbers_of_the_judgement(comparison: Comparison) -> None:
    rows = {row.arm: row for row in tables.arm_rows(comparison)}
    entries = {entry.arm: entry.judgement for entry in comparison.comparisons}
    found = entries[_ODD]
    row = rows[_ODD]
    assert (row.n, row.pairs, row.difference, row.ci) == (6, 6, found.difference, found.ci)
    assert (row.p, row.p_uncorrected, row.verdict) == (found.p_corrected, found.p, "worse")
    assert (rows["ce"].verdict, rows["ce"].pairs) == ("baseline", 0)
    assert rows["single"].verdict == "one seed: no claim"
    assert [row.arm for row in tables.arm_rows(comparison)] == ["single", "ce", _ODD]


def test_the_terminal_shows_the_same_cells(comparison: Comparison, cells: list[list[str]]) -> None:
    lines = verdict_table(comparison).splitlines()[3:]
    assert [re.split(r" {2,}", line)[-1] for line in lines] == [row[-1] for row in cells]


def test_latex_escapes_every_special_letter(comparison: Comparison, cells: list[list[str]]) -> None:
    text = tables.latex(comparison)
    first, *lines = text.splitlines()
    assert first == r"% val/mAP in points, differences from ce; needs \usepackage{booktabs}"
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert [_from_latex(line) for line in body] == cells
    assert all(line.count("{") == line.count("}") for line in lines if "\\{" not in line)
    assert "$-$" in text


def _from_latex(line: str) -> list[str]:
    """What LaTeX sets: escapes undone, signs of mathematics as hyphens."""
    words = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"}
    words["textbar"] = "|"
    line = line.removesuffix(r" \\").replace("$-$", "-")
    split = re.split(r"(?<!\\) & ", line)
    undone = [re.sub(r"\\(\w+)\{\}", lambda found: words[found[1]], cell) for cell in split]
    return [re.sub(r"\\([&%$#_{}])", r"\1", cell).strip() for cell in undone]


def test_latex_says_when_its_own_letters_do_not_do(write_arms: Callable[..., Path]) -> None:
    folder = write_arms({"ce": _CE, "焦点": _WORSE})
    assert "LuaLaTeX" in tables.latex(compare_trials(read_trials([folder]))).splitlines()[0]


@pytest.mark.parametrize(
    ("arms", "bold"),
    [
        ({"ce": _WORSE, "focal": _CE}, ["51.00"]),
        ({"ce": _CE, "focal": _WORSE}, []),
        ({"ce": _CE, "lucky": [0.9]}, []),
    ],
)
def test_the_best_mean_is_bold_only_where_the_verdict_says_that_it_is_better(
    arms: dict[str, list[float | None]], bold: list[str], write_arms: Callable[..., Path]
) -> None:
    found = compare_trials(read_trials([write_arms(arms)]))
    assert re.findall(r"\\textbf\{(.*?)\}", tables.latex(found)) == bold
    assert re.findall(r"\*\*(.*?)\*\*", tables.markdown(found)) == bold


def test_markdown_is_one_table_of_the_same_cells(comparison: Comparison, cells: list[list[str]]) -> None:
    page = markdown_package.markdown(tables.markdown(comparison), extensions=["tables"])
    assert _cells_of(page) == [list(tables.COLUMNS), *cells]
    assert "<i>" not in page


def test_html_is_one_table_of_the_same_cells_that_asks_for_nothing(
    comparison: Comparison, cells: list[list[str]]
) -> None:
    text = tables.html_table(comparison)
    ElementTree.fromstring(text)  # well formed
    assert _cells_of(text) == [list(tables.COLUMNS), *cells]
    assert not re.search(r"http|url\(|src=|<script|color|background", text)


def _cells_of(page: str) -> list[list[str]]:
    """The text of each cell of each row, as a browser reads it."""

    class Reader(HTMLParser):
        rows: list[list[str]]
        inside = False

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag == "tr":
                self.rows.append([])
            elif tag in ("td", "th"):
                self.rows[-1].append("")
            self.inside |= tag in ("td", "th")

        def handle_endtag(self, tag: str) -> None:
            self.inside &= tag not in ("td", "th")

        def handle_data(self, data: str) -> None:
            if self.inside:
                self.rows[-1][-1] += data

    reader = Reader()
    reader.rows = []
    reader.feed(page)
    return [[cell.strip() for cell in row] for row in reader.rows]


def test_names_with_line_breaks_and_control_characters_stay_one_line() -> None:
    assert tables.latex_text("a\nb\x1b[31m") == "a b?[31m"
    assert tables.markdown_text("a\r\nb\x00") == "a b?"


def test_an_arm_alone_has_a_table_and_a_sentence(write_arms: Callable[..., Path]) -> None:
    alone = compare_trials(read_trials([write_arms({"ce": [0.5]})]))
    assert tables.verdict_sentences(alone) == ["One arm: nothing to compare it with."]
    assert tables.plain_text(alone).splitlines()[0] == "val/mAP in points"
