"""Writes the tables and figures of the docs that follow from the kept data (docs/data), by the rule in force.

    python scripts/results_page.py            # brings every page up to date
    python scripts/results_page.py --check    # exit code 1 and the names of the pages that are not

A page asks for a table with a comment, and for figures behind a semicolon; what stands up to the next comment is
replaced:

    <!-- from data/scale.csv, baseline ce; figures verdicts, over_loss_gamma -->
    <!-- end -->

The data are tables that `focalbench run` wrote (results.csv). Where its sweep.json lies beside a table, what the sweep
declared applies.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from picture_record import IMAGES, ROOT, record

from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.analysis.tables import markdown
from focalbench.records.reader import read_trials
from focalbench.report.paper_figures import write_figures

DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"^<!-- from (?P<data>\S+?)(?:, baseline (?P<baseline>[^;]+?))?(?:; figures (?P<figures>.+?))? -->\n"
    r"(?P<body>.*?)^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
_HEAD, _END = re.compile(r"^<!-- from\b.*$", re.MULTILINE), "<!-- end -->"
_DESCRIPTIONS = {"verdicts": "Differences from {baseline} with their 95 % intervals and verdicts"}
_DESCRIPTION = "Mean mAP with its 95 % interval over the swept values"


@dataclass(frozen=True)
class Block:
    """A place of a page that follows from data.

    Attributes:
        data: the table, relative to docs.
        baseline: arm to compare with; None for the sweep's.
        figures: names as ``focalbench report --figures`` writes them.
        body: what stands there now.
    """

    data: str
    baseline: str | None
    figures: tuple[str, ...]
    body: str

    def comparison(self) -> Comparison:
        """Judges the arms of the data."""
        trials = read_trials([DOCS / self.data], tables=True)
        return compare_trials(trials, baseline=self.baseline, with_test_set_noise=False)

    def picture(self, figure: str) -> Path:
        """Where a figure of this block lies."""
        name = self.data.removeprefix("data/").removesuffix("/results.csv").removesuffix(".csv")
        return IMAGES / f"{name}_{figure}.svg"


def blocks(page: Path) -> list[Block]:
    """Returns the places of ``page`` that follow from data.

    Raises:
        ValueError: for a comment that is not written as above, or without its end.
    """
    found = list(_BLOCK.finditer(text := page.read_text(encoding="utf-8")))
    heads = _HEAD.findall(text)
    well_formed = [block[0].partition("\n")[0] for block in found]
    if heads != well_formed or text.count(_END) != len(heads):
        wrong = next((head for head in heads if head not in well_formed), "an end too many or too few")
        raise ValueError(f"{page.name}: {wrong}: no comment as scripts/results_page.py asks for")
    return [_block(block) for block in found]


def _block(found: re.Match[str]) -> Block:
    figures = tuple(name.strip() for name in (found["figures"] or "").split(",") if name.strip())
    return Block(found["data"], found["baseline"], figures, found["body"])


def body(block: Block, comparison: Comparison) -> str:
    """Returns what belongs into a block: the table as ``focalbench compare --markdown`` has it, and the figures."""
    table = [line for line in markdown(comparison).splitlines() if line.startswith("|")]
    lines = ["", *table]
    for figure in block.figures:
        words = _DESCRIPTIONS.get(figure, _DESCRIPTION).format(baseline=comparison.baseline)
        lines += ["", f"![{words}](images/{block.picture(figure).name})"]
    return "\n".join([*lines, "", ""])


def draw(block: Block, comparison: Comparison) -> None:
    """Writes the figures of a block into docs/images.

    Raises:
        SystemExit: for a figure that the data do not give.
    """
    if not block.figures:
        return
    with tempfile.TemporaryDirectory() as folder:
        drawn = {path.stem: path for path in write_figures(comparison, Path(folder)) if path.suffix == ".svg"}
        for figure in block.figures:
            if figure not in drawn:
                sys.exit(f"{block.data}: no figure {figure}; there are {', '.join(drawn)}")
            block.picture(figure).write_bytes(drawn[figure].read_bytes())
            record(block.picture(figure), "figures")


def up_to_date(page: Path, *, draws: bool = False) -> str:
    """Returns the text of ``page`` with every block as it follows from the data, and draws its figures where asked to.

    Raises:
        ValueError: see :func:`blocks`.
    """
    blocks(page)

    def replaced(found: re.Match[str]) -> str:
        block = _block(found)
        comparison = block.comparison()
        if draws:
            draw(block, comparison)
        head, _, _ = found[0].partition("\n")
        return f"{head}\n{body(block, comparison)}{_END}"

    return _BLOCK.sub(replaced, page.read_text(encoding="utf-8"))


def main() -> None:
    """Brings the pages up to date, or says which are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    old = []
    for page in sorted(DOCS.glob("*.md")):
        text = up_to_date(page, draws=not options.check)
        if text != page.read_text(encoding="utf-8"):
            old.append(page.name)
            if not options.check:
                page.write_text(text, encoding="utf-8")
    for name in old:
        print(f"{name}: {'not as the data have it' if options.check else 'written'}")
    sys.exit(bool(old) and options.check)


if __name__ == "__main__":
    main()
