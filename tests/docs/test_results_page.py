"""The tables of the docs follow from the data that are kept: the rule of today on the values of docs/data."""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest
import results_page
from results_page import DOCS, ROOT, Block, blocks, body, up_to_date

_PAGES = [page for page in sorted(DOCS.glob("*.md")) if blocks(page)]


def test_pages_ask_for_tables() -> None:
    assert "results.md" in {page.name for page in _PAGES}


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_table_is_that_of_the_kept_data(page: Path) -> None:
    assert up_to_date(page) == page.read_text(encoding="utf-8"), "run python scripts/results_page.py"


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_its_figures_are_there(page: Path) -> None:
    assert all(block.picture(figure).is_file() for block in blocks(page) for figure in block.figures)


def test_all_kept_data_are_asked_for() -> None:
    asked = {DOCS / block.data for page in _PAGES for block in blocks(page)}
    assert asked == set((DOCS / "data").rglob("*.csv"))


def _figures(text: str) -> set[str]:
    """All figures with two places behind the point, without signs."""
    return set(re.findall(r"(?<![\d.])\d+\.\d\d(?!\d)", text))


def test_figures_in_words_are_those_of_the_tables() -> None:
    in_tables = _figures("".join(block.body for page in _PAGES for block in blocks(page)))
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    measured = [line for line in readme if "undecided" in line and "docs/results.md" in line]
    assert len(measured) == 5
    answers = (DOCS / "answers.md").read_text(encoding="utf-8")
    assert _figures(answers + "".join(measured)) - in_tables == set()


def test_what_is_said_of_the_negatives_follows_from_the_kept_values() -> None:
    kept = json.loads((DOCS / "data" / "hard_negatives.json").read_text(encoding="utf-8"))
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    for kind, words in (("nothing", "nothing"), ("near", "near an"), ("object", "on an"), ("other class", "on an")):
        cells = []
        for arm in ("ce-s", "focal-2-s"):
            tails = [trial["hard_tail"]["by_kind"] for name, trial in kept.items() if name.startswith(arm)]
            shares = [100 * tail[kind]["share_of_negative_loss"] for tail in tails]
            assert len(shares) == 6
            cells.append(f"{fmean(shares):.1f} ({min(shares):.1f} to {max(shares):.1f})")
        row = re.escape(f" | {' | '.join(cells)} |")
        assert re.search(rf"^\| {words}[^|]*{row}$", page, re.MULTILINE), cells
    kinds = [region["kind"] for region in kept["ce-s0-23eed52e"]["hard_tail"]["regions"]]
    assert kinds[:18].count("nothing") == 14


def test_a_block_is_a_table_and_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["trial,arm,seed,config_hash,state,val/mAP"]
    for arm, shift in (("ce", 0.0), ("focal", 0.1)):
        lines += [f"{arm}-s{seed},{arm},{seed},,done,{0.5 + 0.01 * seed**2 % 3 / 10 + shift}" for seed in range(6)]
    (tmp_path / "kept.csv").write_text("\n".join(lines) + "\n")
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- from kept.csv, baseline ce; figures verdicts -->\nold\n<!-- end -->\n\nafter\n")
    monkeypatch.setattr(results_page, "DOCS", tmp_path)
    monkeypatch.setattr(results_page, "IMAGES", tmp_path)
    (block,) = blocks(page)
    assert block == Block("kept.csv", "ce", ("verdicts",), "old\n")
    assert "![Differences from ce" in body(block, block.comparison())
    written = up_to_date(page, draws=True)
    assert (tmp_path / "kept_verdicts.svg").is_file()
    assert written.startswith("before\n\n<!-- from kept.csv")
    assert written.endswith("<!-- end -->\n\nafter\n")
    assert "| focal | 6 |" in written
    assert "old" not in written
    page.write_text(written)
    assert up_to_date(page) == written


@pytest.mark.parametrize(
    "text",
    [
        "<!-- from data/a.csv baseline ce -->\n<!-- end -->\n",  # no comma
        "<!-- from data/a.csv -->\n",
        "<!-- from data/a.csv -->\nwords\n<!-- from data/b.csv -->\n<!-- end -->\n",
    ],
)
def test_a_comment_that_would_be_passed_over_or_swallow_text_is_refused(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page.md: .*: no comment as"):
        up_to_date(page)
