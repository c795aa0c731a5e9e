"""What is wrong with a data set: single faults, and their account in at most 20 lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from focalbench.errors import DataError

MAX_LINES = 20


@dataclass(frozen=True, order=True)
class Fault:
    """One fault or repair.

    Attributes:
        kind: short fixed name such as ``swapped-box``; faults of one kind are counted together.
        file: the file at fault, as it was reached from the data root.
        object: which object of the file (``object 3 'dog'``), or None where the fault concerns the whole file.
        reason: what is wrong and, for a warning, what was done about it.
    """

    kind: str
    file: str
    object: str | None
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.object}" if self.object else self.file
        return f"{shorten(where)}: {shorten(self.reason)}"


def shorten(text: str, limit: int = 300) -> str:
    """Cuts ``text`` to one printable line of at most ``limit`` characters: it comes from files nobody vouches for."""
    line = "".join(character if character.isprintable() else "?" for character in text)
    return line if len(line) <= limit else f"{line[: limit - 20]}...{line[-17:]}"


def count_kinds(faults: Iterable[Fault]) -> dict[str, int]:
    """Counts the faults of each kind, the most frequent first."""
    return dict(Counter(fault.kind for fault in faults).most_common())


def pick_of_every_kind(faults: Sequence[Fault], limit: int) -> list[Fault]:
    """Picks at most ``limit`` faults: the first of every kind, then others in order, so that no kind hides another."""
    first = {fault.kind: index for index, fault in reversed(list(enumerate(faults)))}
    firsts_first = sorted(range(len(faults)), key=lambda index: first[faults[index].kind] != index)
    return [faults[index] for index in sorted(firsts_first[:limit])]


def summarise(
    faults: Sequence[Fault], noun: str, limit: int = MAX_LINES, lister: str = "focalbench data check --json"
) -> list[str]:
    """Gives an account of ``faults``: one line of counts by kind, then the faults, in ``limit`` lines at most.

    ``lister`` is the command that lists those for which there is no room.
    """
    kinds = ", ".join(f"{kind} {count}" for kind, count in count_kinds(faults).items())
    head = f"{len(faults)} {noun}{'' if len(faults) == 1 else 's'}: {shorten(kinds, 400)}"
    room = limit - 1 if len(faults) <= limit - 1 else limit - 2
    lines = [head, *(f"  {fault}" for fault in pick_of_every_kind(faults, room))]
    if len(faults) > room:
        lines.append(f"  ... and {len(faults) - room} more: `{lister}` lists them")
    return lines


def raise_for_faults(faults: Sequence[Fault], limit: int = MAX_LINES) -> None:
    """Raises one DataError that accounts for all of ``faults`` in ``limit`` lines; nothing when there are none."""
    if faults:
        raise DataError("\n".join(summarise(faults, "data error", limit)))
