"""The file that a long run writes to as it goes: one JSON line a case, so that it can be stopped and continued."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Case = dict[str, Any]


class Journal:
    """Cases by part and number; those that are written down are not done again."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._seed = path, seed
        lines = path.read_text().splitlines() if path.exists() else []
        self.cases: dict[str, dict[str, Case]] = {}
        for line in lines:
            self._keep(json.loads(line))

    def _keep(self, case: Case) -> None:
        self.cases.setdefault(case["part"], {})[case["case"]] = case

    def missing(self, part: str, names: Iterator[str] | list[str]) -> Iterator[tuple[str, random.Random]]:
        """The cases of ``part`` that are still to be done, each with its own stream of random numbers."""
        for name in names:
            if name not in self.cases.get(part, {}):
                yield name, random.Random(f"{self._seed} {part} {name}")

    def note(self, part: str, name: str, **facts: Any) -> None:
        """Writes a case down; ``wrong`` among its facts lists what was not as promised."""
        case = {"part": part, "case": name, **facts}
        with self._path.open("a") as file:
            file.write(json.dumps(case) + "\n")
        self._keep(case)
        wrong = f"  WRONG: {facts['wrong']}" if facts.get("wrong") else ""
        print(f"{time.strftime('%H:%M:%S')} {part} {name}{wrong}", file=sys.stderr, flush=True)

    def once(self, part: str, name: str, measure: Callable[[], Case]) -> Case:
        """The facts of a case, measured now or in an earlier run."""
        if name not in self.cases.get(part, {}):
            self.note(part, name, **measure())
        return self.cases[part][name]
