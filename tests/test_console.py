"""Tables, JSON and lines of the log, on a terminal and away from one."""

import io
import json
import math
import re

import pytest
from rich.cells import cell_len

from focalbench import console
from focalbench.errors import StorageError


def test_table_is_plain_and_aligned_without_a_terminal(capsys):
    console.print_table(["arm", "mAP"], [("gamma=2", 0.71), ("ce", "-")], title="Arms", note="n = 3")
    assert capsys.readouterr().out == "Arms\narm       mAP\n-------  ----\ngamma=2  0.71\nce          -\nn = 3\n"


def test_signs_of_two_columns_stand_in_line(capsys):
    console.print_table(["arm", "n"], [("焦点", 6), ("ce", 12)])
    assert capsys.readouterr().out == "arm    n\n----  --\n焦点   6\nce    12\n"


def test_table_without_rows(capsys):
    console.print_table(["a", "b"], [])
    assert capsys.readouterr().out == "a  b\n-  -\n"


@pytest.mark.parametrize("colour", [True, False])
def test_table_on_a_terminal_holds_every_cell_within_its_width(monkeypatch, terminal, colour):
    stream = terminal(60, "stdout")
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    console.print_table(["arm", "note"], [("[red]x[/red]", "word " * 4), ("b" * 20, "y")])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert ("\x1b" in stream.getvalue()) <= colour
    assert "[red]x[/red]" in plain  # a cell is text, never markup
    assert max(map(len, plain.splitlines())) <= 60


@pytest.fixture
def on_terminal(terminal):
    """Makes stdout a terminal of so many columns; what is called then returns what it shows, without colours."""

    def make(columns):
        stream = terminal(columns, "stdout")
        return lambda: re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())

    return make


def test_words_stay_whole_in_80_columns_but_for_a_long_first_column(on_terminal):
    shown = on_terminal(80)
    columns = ["arm", "n", "mean", "sd", "difference", "95 % CI", "p (Holm)", "verdict"]
    row = [
        "loss=softmax_balanced_ce",
        6,
        "0.8264",
        "0.0123",
        "+0.0193",
        "[-0.0325, +0.0167]",
        "0.0123",
        "not enough seeds",
    ]
    console.print_table(
        columns, [row], note="a rule that is said in more words than eighty columns of a terminal can hold at once"
    )
    words = shown().split()
    whole = "balanced_ce loss=softmax_ difference [-0.0325, +0.0167] (Holm) 0.8264 enough seeds terminal"
    for word in whole.split():
        assert word in words
    assert max(map(len, shown().splitlines())) <= 80


def test_a_terminal_too_narrow_for_the_words_breaks_them(on_terminal):
    shown = on_terminal(30)
    console.print_table(["arm", "verdict"], [("a" * 20, "b" * 40)])
    assert max(map(len, shown().splitlines())) <= 30
    assert shown().count("b") == 40


def test_headings_stay_whole_as_long_as_text_can_be_broken(on_terminal):
    shown = on_terminal(80)
    columns = ["sweep", "done", "running", "waiting", "failed", "all", "arms", "best arm so far", "mAP in points", "n"]
    row = ["voc2007-gamma1", 0, 2, 10, 0, 12, 2, "focal-matched-gamma=2", "44.94", 6]
    console.print_table([*columns, "written"], [[*row, "3 min ago"]])
    assert {"running", "waiting", "failed", "written"} <= set(shown().split())
    assert max(map(len, shown().splitlines())) <= 80


def test_signs_of_two_columns_fill_a_terminal(on_terminal):
    shown = on_terminal(60)
    console.print_table(["arm", "mAP", "verdict"], [("焦点损失" * 4, "44.94", "better")])
    assert "焦点损失" * 4 in shown()
    console.print_table(["arm", "mAP"], [("焦点损失" * 20, "44.94")])
    assert max(cell_len(line) for line in shown().splitlines()) <= 60
    console.print_table(["a" * 40, "b" * 40], [])


@pytest.mark.parametrize("width", [30, 60])
def test_a_number_is_never_broken(on_terminal, width):
    shown = on_terminal(width)
    row = ["a" * 20, 6, "44.94", "1.66", "+0.87", "-1.03 to +2.77", ".4092"]
    console.print_table(["arm", "n", "mean", "sd", "difference", "95 % CI", "p (Holm)"], [row])
    assert {"6", "44.94", "1.66", "+0.87", "-1.03", "+2.77", ".4092"} <= set(shown().split())


def test_json_has_no_nan(capsys):
    console.print_json({"a": math.nan, "b": [math.inf, 1.5], "c": (1, "é"), 3: None})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": [1, "é"], "3": None}


def test_log_lines_go_to_stderr(capsys):
    console.info("one")
    console.warn("two")
    console.error("three")
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "one\nwarning: two\nerror: three\n")


def test_full_disk_is_said(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(StorageError, match="No space left"):
        console.print_text("x")
    monkeypatch.setattr("sys.stderr", Full())
    console.warn("a full log does not stop a training")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (185, "3 min 5 s"), (7810, "2 h 10 min"), (-1, "0 s")],
)
def test_durations(seconds, text):
    assert console.duration(seconds) == text


def test_cells_have_their_styles_on_a_terminal_only(monkeypatch, on_terminal, capsys):
    table = {"columns": ["arm", "verdict"], "rows": [("better", "better"), ("ce", "baseline")]}
    styles = {"verdict": {"better": "green", "worse": "red"}}
    console.print_table(**table, styles=styles)
    assert capsys.readouterr().out == console.table_text(**table) + "\n"
    on_terminal(80)
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = console.table_text(**table, styles=styles)
    assert shown.count("\x1b[32mbetter") == 1  # in its column, not in the other
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in console.table_text(**table, styles=styles)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (185, "3:05"), (7807, "2:10:07"), (360000, "100:00:00"), (-1, "0:00")],
)
def test_a_clock_has_minutes_and_seconds_and_hours_where_there_are_any(seconds, text):
    assert console.clock(seconds) == text
