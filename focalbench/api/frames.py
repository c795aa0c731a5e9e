"""Data frames, for those who have pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from focalbench.errors import MissingPackageError

if TYPE_CHECKING:
    import pandas as pd


def data_frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Returns ``rows`` as a data frame with ``columns`` in this order; what a row lacks is missing there.

    Raises:
        MissingPackageError: without pandas.
    """
    try:
        import pandas
    except ModuleNotFoundError as fault:
        if fault.name != "pandas":
            raise
        raise MissingPackageError("data frames need pandas: pip install 'focalbench[pandas]'", name="pandas") from fault
    return pandas.DataFrame(list(rows), columns=list(columns))
