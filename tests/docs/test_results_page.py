"""docs/results.md follows from the data that are kept: the rule of today on the values of docs/data."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from results_table import markdown

from focalbench.analysis.comparison import compare_trials
from focalbench.records.reader import read_trials

_ROOT = Path(__file__).parents[2]
_KEPT = ("voc2007_pretrained",)


@pytest.mark.parametrize("name", _KEPT)
def test_the_table_on_the_page_is_that_of_the_kept_data(name: str, write_trial: Callable[..., Path]) -> None:
    with (_ROOT / "docs" / "data" / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        loss = {key.removeprefix("loss."): value for key, value in row.items() if key.startswith("loss.") and value}
        written = write_trial(
            f"runs/{name}/{row['trial']}",
            arm=row["arm"],
            seed=int(row["seed"]),
            value=float(row["val/mAP"]),
            loss=loss,
            result={"config_hash": row["config_hash"], "protocol": row["protocol"]},
        )
    found = compare_trials(read_trials([written.parent]), with_test_set_noise=False)
    page = (_ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert set(markdown(found)) <= set(page.splitlines())  # the page has the arms in the order of the sweep
