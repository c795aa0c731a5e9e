"""Tables, JSON and the progress of a sweep, away from a terminal."""

import io
import json
import math
import re

import pytest

from focalbench import console
from focalbench.errors import StorageError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_table_is_plain_and_aligned_without_a_terminal(capsys):
    console.print_table(["arm", "mAP"], [("gamma=2", 0.71), ("ce", "-")], title="Arms", note="n = 3")
    assert capsys.readouterr().out == "Arms\narm       mAP\n-------  ----\ngamma=2  0.71\nce          -\nn = 3\n"


def test_table_without_rows(capsys):
    console.print_table(["a", "b"], [])
    assert capsys.readouterr().out == "a  b\n-  -\n"


@pytest.mark.parametrize("colour", [True, False])
def test_table_on_a_terminal_holds_every_cell_within_its_width(monkeypatch, colour):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    console.print_table(["arm", "note"], [("[red]x[/red]", "word " * 4), ("b" * 20, "y")])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert ("\x1b" in stream.getvalue()) <= colour
    assert "[red]x[/red]" in plain  # a cell is text, never markup
    assert max(map(len, plain.splitlines())) <= 60


def on_terminal(monkeypatch, columns):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return lambda: re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def test_words_stay_whole_in_80_columns_but_for_a_long_first_column(monkeypatch):
    shown = on_terminal(monkeypatch, 80)
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


def test_a_terminal_too_narrow_for_the_words_breaks_them(monkeypatch):
    shown = on_terminal(monkeypatch, 30)
    console.print_table(["arm", "verdict"], [("a" * 20, "b" * 40)])
    assert max(map(len, shown().splitlines())) <= 30
    assert shown().count("b") == 40


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


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    clock = Clock()
    monkeypatch.setattr(console.time, "monotonic", lambda: clock.now)
    return clock


def test_plain_progress_has_a_line_per_start_evaluation_and_end(capsys, clock):
    with console.SweepDisplay(2) as display:
        display.trial_started("a")
        for step in range(0, 60, 10):
            display.trial_progress("a", step, 100, {"train/loss": 1.25})
        clock.now += 10
        display.trial_progress("a", 60, 100, {"val/mAP": 0.5})
        display.trial_finished("a", "done", {"val/mAP": 0.71, "wall_s": None})
        display.trial_started("b")
        display.trial_finished("b", "failed", {})
    assert capsys.readouterr().err.splitlines() == [
        "a: started",
        "a: step 60 of 100, mAP 0.500, loss 1.25, about 7 s left; sweep: 23 s left",
        "a: done, mAP 0.710 (1 of 2 done, about 10 s left)",
        "b: started",
        "b: failed (1 of 2 done, 1 failed)",
    ]


def test_plain_progress_shows_life_now_and_then_between_evaluations(capsys, clock):
    display = console.SweepDisplay(1)
    display.trial_started("a")
    for step in range(1, 121):
        clock.now += 1
        display.trial_progress("a", step, 1000, {"train/loss": 2.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [f"a: step {step} of 1000" for step in (30, 60, 90, 120)]


def test_remaining_time_counts_running_waiting_and_resumed_trials(clock):
    display = console.SweepDisplay(5, num_done=1)
    assert display.seconds_left() is None
    display.trial_started("a")
    display.trial_started("b")
    display.trial_progress("a", 0, 100, {})
    display.trial_progress("b", 50, 100, {})  # resumed: the first half is not this call's work
    clock.now += 50
    display.trial_progress("a", 50, 100, {})
    display.trial_progress("b", 100, 100, {})
    # 0.5 + 0.5 trainings in 50 s; left: half of a, and two that wait
    assert display.seconds_left() == pytest.approx(125)
    display.trial_finished("b", "done", {})
    assert display.seconds_left() == pytest.approx(125)


def test_remaining_time_counts_what_failed_and_paused_trials_did_and_leaves_out_stopped_ones(clock):
    display = console.SweepDisplay(8, num_done=1, num_left_out=1)
    for name, step, state in (("a", 20, "failed"), ("b", 40, "paused"), ("c", 40, "paused")):
        display.trial_started(name)
        display.trial_progress(name, 0, 100, {})
        display.trial_progress(name, step, 100, {})
        clock.now += step
        display.trial_finished(name, state, {})
    # one training in 100 s; left: 0.6 of b, 0.6 of c, and three that wait
    assert display.seconds_left() == pytest.approx(420)
    display.trial_finished("b", "stopped", {})
    assert display.seconds_left() == pytest.approx(360)
    display.trial_started("c")
    display.trial_progress("c", 40, 100, {})
    assert display.seconds_left() == pytest.approx(360)
    clock.now += 60
    display.trial_finished("c", "done", {})
    assert display.seconds_left() == pytest.approx(300)


def test_the_sweep_takes_no_less_than_its_slowest_trial(clock):
    display = console.SweepDisplay(2)
    display.trial_started("a")
    display.trial_started("b")
    clock.now += 40
    display.trial_progress("a", 0, 100, {})
    display.trial_progress("b", 0, 100, {})
    display.trial_progress("a", 20, 100, {})
    display.trial_progress("b", 100, 100, {})
    display.trial_finished("b", "done", {})
    # 1.2 trainings in 40 s were done by two at once; the rest of a is done by itself alone
    assert display.seconds_left() == pytest.approx(160)


def test_live_rows_on_a_terminal(monkeypatch, clock):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with console.SweepDisplay(3) as display:
        display.trial_started("gamma=2-s0-754a7108")
        display.trial_progress("gamma=2-s0-754a7108", 10, 100, {"train/loss": 1.5})
        display.message("a [bold]line[/bold]")
        display._live.refresh()
        display.trial_finished("gamma=2-s0-754a7108", "done", {"val/mAP": 0.7})
    display.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "gamma=2-s0 " in plain
    assert "loss 1.5" in plain
    assert "0 of 3 trials" in plain
    assert "a [bold]line[/bold]" in plain
    assert "gamma=2-s0-754a7108: done, mAP 0.700 (1 of 3 done" in plain
