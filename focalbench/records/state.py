"""How a trial stands: one rule, from what its status.json and result.json say."""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """How a trial stands; the values are those of status.json, ``new`` and ``unreadable`` apart."""

    NEW = "new"
    """Nothing of it is there yet."""
    RUNNING = "running"
    """A process trains it, or was killed while it did."""
    INTERRUPTED = "interrupted"
    """It was stopped after a checkpoint."""
    DONE = "done"
    """Its result is there."""
    FAILED = "failed"
    """It cannot go on by itself; ``--retry-failed`` tries it again."""
    STOPPED = "stopped"
    """A search gave it up before its end, with its whole arm."""
    UNREADABLE = "unreadable"
    """It was done once, but its result is lost or damaged: its last checkpoint gives it again."""

    @property
    def is_final(self) -> bool:
        """Whether the trial is over: done, failed or stopped."""
        return self in (TrialState.DONE, TrialState.FAILED, TrialState.STOPPED)


def state_of(written: TrialState | None, *, has_result: bool) -> TrialState:
    """Returns the state of a trial.

    Args:
        written: what status.json says; None without the file.
        has_result: whether result.json can be read.
    """
    if written is None:
        return TrialState.DONE if has_result else TrialState.NEW
    if written is TrialState.DONE and not has_result:
        return TrialState.UNREADABLE
    return written
