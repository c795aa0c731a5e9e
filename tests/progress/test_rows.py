"""Rows with bars, on terminals of any width."""

import re

import pytest
from rich.cells import cell_len

from focalbench.console import rendered
from focalbench.progress.rows import Row, rows_table


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_the_view_is_as_wide_as_the_terminal_and_no_line_is_wider(columns):
    rows = [
        Row("soft-balanced-ce-gamma=2-alpha=0.25-s0", 120, 480, images_per_s=153.25, seconds=12, loss=1.234),
        Row("焦点损失-γ=2-s1", 470, 480, seconds=4000, seconds_left=61, mean_ap=0.123, loss=0.00123),
        Row("ce-s0", doing="loading torch", seconds=1),
        Row("sweep", 3, 30, begun=1.5, seconds=4000),
    ]
    lines = rendered(rows_table(rows, columns), columns).splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert len(plain) == 5
    assert max(cell_len(line) for line in plain) <= columns
    assert plain[0].split() == ["step", "images/s", "elapsed", "left", "mAP", "loss"]
    assert plain[1].split()[-4:] == ["120/480", "153.2", "0:12", "1.23"]
    assert plain[2].split()[-4:] == ["1:06:40", "1:01", "12.3", "0.00123"]
    assert "loading torch" in plain[3]
    if columns >= 120:
        assert plain[1].startswith("soft-balanced-ce-gamma=2-alpha=0.25-s0 ━")
        assert plain[2].startswith("焦点损失-γ=2-s1 ")
