"""The progress of a sweep, on a terminal and away from one."""

import io
import re

import pytest

from focalbench import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def test_plain_progress_has_a_line_per_start_evaluation_and_end(capsys, clock):
    with progress.SweepDisplay(2) as display:
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
    display = progress.SweepDisplay(1)
    display.trial_started("a")
    for step in range(1, 121):
        clock.now += 1
        display.trial_progress("a", step, 1000, {"train/loss": 2.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [f"a: step {step} of 1000" for step in (30, 60, 90, 120)]


def test_remaining_time_counts_running_waiting_and_resumed_trials(clock):
    display = progress.SweepDisplay(5, num_done=1)
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
    display = progress.SweepDisplay(8, num_done=1, num_left_out=1)
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
    display = progress.SweepDisplay(2)
    display.trial_started("a")
    display.trial_started("b")
    display.trial_progress("a", 0, 100, {})
    display.trial_progress("b", 0, 100, {})
    clock.now += 40
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
    with progress.SweepDisplay(3) as display:
        display.trial_started("gamma=2-s0-754a7108")
        display.trial_progress("gamma=2-s0-754a7108", 10, 100, {"train/loss": 1.5})
        display.message("a [bold]line[/bold]")
        display._live.refresh()
        display.trial_finished("gamma=2-s0-754a7108", "done", {"val/mAP": 0.7})
    display.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "gamma=2-s0 " in plain
    assert re.search(r"10/100 .* 1\.5", plain)
    assert "0 of 3 done" in plain
    assert "a [bold]line[/bold]" in plain
    assert "gamma=2-s0-754a7108: done, mAP 0.700 (1 of 3 done" in plain
