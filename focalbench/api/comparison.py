"""The arms of a sweep beside their baseline, to be read, quoted and printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from focalbench.analysis import tables
from focalbench.analysis.comparison import Comparison as Found
from focalbench.analysis.tables import ArmRow
from focalbench.api.frames import data_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Comparison(Mapping[str, ArmRow]):
    """What can be said of each arm against the baseline: a mapping from an arm's name to its row, best mean first.

    Printed it is the table of ``focalbench compare``; a notebook shows it as HTML.

    Attributes:
        found: everything else that the comparison knows, such as the spread of pairs or what the seeds can resolve.
    """

    found: Found

    @cached_property
    def rows(self) -> tuple[ArmRow, ...]:
        """A row for each arm, the best mean first, the baseline among them."""
        return tables.arm_rows(self.found)

    @property
    def metric(self) -> str:
        """The number that is compared, such as ``val/mAP``."""
        return self.found.metric

    @property
    def baseline(self) -> str | None:
        """The arm that the others are compared with; None for a single arm."""
        return self.found.baseline

    @property
    def verdict(self) -> str:
        """The answer in words that can be quoted: which arms are better, worse, alike or undecided."""
        return " ".join(tables.verdict_sentences(self.found))

    @property
    def rule(self) -> str:
        """How the words come about, for a caption."""
        return tables.rule(self.found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader has to know before believing the table."""
        return self.found.warnings

    def __getitem__(self, arm: str) -> ArmRow:
        return self._by_arm[arm]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_arm)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _by_arm(self) -> dict[str, ArmRow]:
        return {row.arm: row for row in self.rows}

    def to_dataframe(self) -> pd.DataFrame:
        """Returns a data frame with a row an arm: the fields of ``ArmRow``, in the metric's own unit, with the ends of
        the interval as ``ci_low`` and ``ci_high``.

        Raises:
            MissingPackageError: without pandas.
        """
        columns = [column for field in fields(ArmRow) for column in _COLUMNS.get(field.name, (field.name,))]
        records = [asdict(row) | dict(zip(_COLUMNS["ci"], row.ci, strict=True)) for row in self.rows]
        return data_frame(
            [record | {"not_comparable": "; ".join(record["not_comparable"])} for record in records], columns
        )

    def to_latex(self) -> str:
        r"""Returns the table as a LaTeX ``tabular`` for ``\usepackage{booktabs}``, average precisions in points."""
        return tables.latex(self.found)

    def to_markdown(self) -> str:
        """Returns the table as Markdown, average precisions in points."""
        return tables.markdown(self.found)

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Writes the verdicts, the curves, AP per class and each swept key as NAME.pdf and NAME.svg.

        Returns:
            the files.

        Raises:
            StorageError: when ``folder`` cannot be made or written.
        """
        from focalbench.report.paper_figures import write_figures  # matplotlib takes a while to load

        return write_figures(self.found, Path(folder))

    def _repr_html_(self) -> str:
        return tables.html_table(self.found)

    def __str__(self) -> str:
        return tables.plain_text(self.found)

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self)}: {self.verdict}>"


_COLUMNS = {"ci": ("ci_low", "ci_high")}
