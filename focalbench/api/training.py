"""Trains what a configuration says, with a display; the command line and ``focalbench.run`` both come here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from focalbench import console
from focalbench.board.board import Board, kept_up_to_date
from focalbench.config.dump import resolved
from focalbench.config.load import Experiment
from focalbench.config.sweep import Trial
from focalbench.launchers.search import typical_trials
from focalbench.launchers.session import Session, SessionOptions, known_trials, run_session
from focalbench.progress.sweep import NoDisplay, SweepDisplay
from focalbench.records.sweep import SweepFolder


def default_folder(experiment: Experiment) -> Path:
    """Returns where results go unless somebody says otherwise: runs/NAME."""
    return Path("runs") / experiment.config.name


def train(experiment: Experiment, folder: Path, options: SessionOptions, *, progress: bool = True) -> Session:
    """Trains what is not done yet, and keeps TensorBoard's pages of the sweep up to date meanwhile.

    Args:
        progress: show on stderr how far it is; else nothing is said at all.

    Raises:
        FocalbenchError, InterruptedTrial: see ``run_session``.
    """
    trials = [*experiment.trials, *typical_trials(experiment.config)]
    board = Board(folder, [resolved(trial.config) for trial in trials])
    with ExitStack() as stack:

        def make_display(num_trials: int, num_done: int, num_left_out: int) -> SweepDisplay | NoDisplay:
            display: SweepDisplay | NoDisplay = NoDisplay()
            if progress:
                scores = _finished_scores(known_trials(experiment, SweepFolder(folder)), folder)
                display = stack.enter_context(SweepDisplay(num_trials, num_done, num_left_out, scores))
            # Not before: only now is the folder this process's too.
            stack.enter_context(kept_up_to_date(board, display.message))
            return display

        return run_session(experiment, folder, options, make_display, console.info if progress else NoDisplay().message)


def _finished_scores(trials: Sequence[Trial], folder: Path) -> dict[str, list[float]]:
    """mAP of the trials that are done already, by arm."""
    scores: dict[str, list[float]] = {}
    for trial in trials:
        result = SweepFolder(folder).trial(trial.name).result()
        if result is not None and result.mean_ap is not None:
            scores.setdefault(trial.arm, []).append(result.mean_ap)
    return scores
