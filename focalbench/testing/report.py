"""What a check found: a list of findings, each with its state and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        state: ``failed`` is a fault; a ``warning`` may be meant so.
        words: what was seen, and for a fault what commonly brings it about.
    """

    name: str
    state: State
    words: str

    def __str__(self) -> str:
        return f"{self.state:7}  {self.name}: {self.words}"


@dataclass(frozen=True)
class Report:
    """The findings of one check.

    Attributes:
        kind: what was checked: loss | backbone | detector | tracker.
        name: of what was checked.
        place: file and line of its definition.
        findings: in the order in which they were looked at.
    """

    kind: str
    name: str
    place: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed; warnings do not count."""
        return not self._of("failed")

    @property
    def verdict(self) -> str:
        """The report in one line."""
        failed, warned = len(self._of("failed")), len(self._of("warning"))
        said = (
            f"{failed} of {len(self.findings)} checks failed"
            if failed
            else f"{len(self.findings)} check{'s'[: len(self.findings) != 1]} passed"
        )
        warnings = f", {warned} warning{'s'[: warned > 1]}" if warned else ""
        return f"{self.kind} {self.name} ({self.place}): {said}{warnings}"

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"  {finding}" for finding in self.findings)])

    def raise_if_failed(self) -> None:
        """Does nothing where nothing failed.

        Raises:
            AssertionError: with the words of everything that failed, and of warnings.
        """
        if not self.ok:
            told = [finding for finding in self.findings if finding.state != "ok"]
            raise AssertionError("\n".join([self.verdict, *(f"  {finding}" for finding in told)]))

    def _of(self, state: State) -> list[Finding]:
        return [finding for finding in self.findings if finding.state == state]


@dataclass(frozen=True)
class LossReport(Report):
    """The findings of a loss.

    Attributes:
        initial_loss: expected value for each positive anchor before the first step, with the prior 0.01 and 100 anchors
            for each positive; None where the loss has no closed form of it, or could not be built.
    """

    initial_loss: float | None = None
