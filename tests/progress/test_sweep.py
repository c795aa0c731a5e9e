"""The progress of a sweep, on a terminal and away from one."""

import io
import re
import time

import pytest
from rich.cells import cell_len

from focalbench.progress.sweep import SweepDisplay


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def test_plain_progress_has_a_line_per_start_evaluation_and_end(capsys, clock):
    with SweepDisplay(2) as display:
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
        "a: step 60 of 100, mAP 50.0, loss 1.25, about 7 s left; sweep: 23 s left",
        "a: done, mAP 71.0 (1 of 2 done, about 10 s left)",
        "b: started",
        "b: failed (1 of 2 done, 1 failed)",
    ]


def test_plain_progress_shows_life_now_and_then_between_evaluations(capsys, clock):
    display = SweepDisplay(1)
    display.trial_started("a")
    for step in range(1, 121):
        clock.now += 1
        display.trial_progress("a", step, 1000, {"train/loss": 2.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [f"a: step {step} of 1000" for step in (30, 60, 90, 120)]


def test_remaining_time_counts_running_waiting_and_resumed_trials(clock):
    display = SweepDisplay(5, num_done=1)
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
    display = SweepDisplay(8, num_done=1, num_left_out=1)
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
    display = SweepDisplay(2)
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


def test_live_rows_on_a_terminal(terminal, clock):
    stream = terminal(80)
    with SweepDisplay(3) as display:
        display.trial_started("gamma=2-s0-754a7108")
        display.trial_progress("gamma=2-s0-754a7108", 10, 100, {"train/loss": 1.5})
        display.message("a [bold]line[/bold]")
        display._live.refresh()
        display.trial_finished("gamma=2-s0-754a7108", "done", {"val/mAP": 0.7})
    display.close()
    plain = _shown(stream)
    assert "gamma=2-s0 " in plain
    assert re.search(r"10/100 .* 1\.5", plain)
    assert "0 of 3 done" in plain
    assert "a [bold]line[/bold]" in plain
    assert "gamma=2-s0-754a7108: done, mAP 70.0 (1 of 3 done" in plain


def _shown(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_a_trial_says_what_it_waits_for(terminal, clock):
    stream = terminal(100)
    with SweepDisplay(2) as display:
        display.trial_started("ce-s0-754a7108")
        display._live.refresh()
        for phase in ("loading torch", "reading data"):
            display.trial_phase("ce-s0-754a7108", phase)
            display._live.refresh()
        display.trial_progress("ce-s0-754a7108", 0, 100, {})
        display._live.refresh()
        display.trial_phase("gone-s0-754a7108", "reading data")  # of a trial that has ended: passed over
    positions = [_shown(stream).index(words) for words in ("starting", "loading torch", "reading data", "first step")]
    assert positions == sorted(positions)
    assert "gone" not in _shown(stream)


def test_the_best_arm_is_the_one_with_the_highest_mean_over_finished_seeds(terminal, clock):
    stream = terminal(120)
    with SweepDisplay(8, num_done=2, scores={"ce": [0.5], "focal": [0.75]}) as display:
        for name, value in (("ce-s1-754a7108", 0.75), ("focal-s1-754a7108", 0.25), ("ghm-s0-754a7108", None)):
            display.trial_started(name)
            display.trial_finished(name, "done", {"val/mAP": value})
        display._live.refresh()
    assert "5 of 8 done; best so far: ce, mean mAP 62.50 over 2 seeds" in _shown(stream)


def test_once_it_is_stopped_nothing_is_estimated_and_each_trial_has_one_line(capsys, clock):
    with SweepDisplay(4) as display:
        for name in ("a", "b"):
            display.trial_started(name)
            display.trial_progress(name, 0, 100, {})
        clock.now += 10
        display.trial_progress("a", 50, 100, {})
        display.stopping()
        assert display.seconds_left() is None
        clock.now += 60
        display.trial_progress("a", 51, 100, {"val/mAP": 0.5})
        display.trial_finished("a", "interrupted", {})
        display.message("a: stopped by SIGTERM after step 51")  # the queue's word of how it ended
        display.trial_finished("b", "done", {"val/mAP": 0.5})
    assert capsys.readouterr().err.splitlines()[2:] == [
        "stopping: 2 trials are writing their checkpoints",
        "a: step 51 of 100, mAP 50.0",
        "a: stopped by SIGTERM after step 51",
        "b: done, mAP 50.0 (1 of 4 done)",
    ]


def test_the_rows_of_a_sweep_that_is_stopped_show_no_time_left(terminal, clock):
    stream = terminal(100)
    with SweepDisplay(2) as display:
        display.trial_started("a-s0-754a7108")
        display.trial_progress("a-s0-754a7108", 0, 100, {})
        clock.now += 10
        display.trial_progress("a-s0-754a7108", 50, 100, {"train/loss": 1.0})
        display.stopping()
        stream.truncate(0)
        display._live.refresh()
        view = _shown(stream)
    assert "0 of 2 done; stopping: 1 trial is writing its checkpoint" in view
    row = next(line for line in view.splitlines() if line.startswith("a-s0 "))
    assert row.split() == ["a-s0", "stopping", "50/100", "0:10", "1"]


def test_an_estimate_does_not_rise_while_nothing_is_reported(clock):
    display = SweepDisplay(4)
    display.trial_started("a")
    clock.now += 30  # loading: no part of the pace
    display.trial_progress("a", 0, 100, {})
    clock.now += 10
    display.trial_progress("a", 50, 100, {})
    before = display.seconds_left()
    clock.now += 500
    assert display.seconds_left() == before == pytest.approx(70)


def test_how_the_arms_stand_is_said_once_away_from_a_terminal(capsys):
    with SweepDisplay(2) as display:
        display.standing(["after 6 seeds, the next look is at 8:", "focal: +0.81"])
        display.sweep_grew(4)
        display.trial_started("a")
        display.trial_finished("a", "done", {})
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["after 6 seeds, the next look is at 8:", "focal: +0.81"]
    assert lines[-1].startswith("a: done (1 of 6 done")


def test_how_the_arms_stand_stays_below_the_rows_of_a_terminal(terminal):
    stream = terminal(80)
    with SweepDisplay(2) as display:
        display.trial_started("a-s0-754a7108")
        display.standing(["after 6 seeds, the next look is at 8:", "focal: +0.81 " + "x" * 200])
        stream.truncate(0)
        display._live.refresh()
        shown = _shown(stream).splitlines()
        assert any(line.startswith("after 6 seeds, the next look is at 8:") for line in shown)
        (line,) = [line for line in shown if line.startswith("focal: +0.81 xxx")]
        assert cell_len(line.rstrip()) <= 80
        display.standing([])
        stream.truncate(0)
        display._live.refresh()
        assert "after 6 seeds" not in _shown(stream)
