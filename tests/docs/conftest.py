"""The recipes of docs/architecture.md, to be carried out block by block on a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
_COMMANDS = """\
import json, sys
from focalbench.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["focalbench", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    print("\\0")
"""


class Recipe:
    """A copy of the package to which a recipe can be applied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(_ROOT / "focalbench", folder / "focalbench")  # compiled kernels too, which take seconds
        self.bring("pyproject.toml")

    def bring(self, *names: str) -> None:
        """Copies files of the checkout."""
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_ROOT / name, self.folder / name)

    def blocks(self, heading: str) -> list[str]:
        """The Python blocks below ``heading``, without their indent."""
        page = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        recipe = page.split(f"## {heading}")[1].split("\n## ")[0]
        found = re.findall(r"^   ```python\n(.*?)^   ```$", recipe, re.MULTILINE | re.DOTALL)
        return [re.sub("^   ", "", block, flags=re.MULTILINE) for block in found]

    def write(self, name: str, text: str) -> None:
        """A new file of the copy."""
        assert not (self.folder / name).exists()
        (self.folder / name).write_text(text, encoding="utf-8")

    def insert(self, name: str, before: str, text: str) -> None:
        """Puts ``text`` before the one place in a file that reads ``before``."""
        self._replace(name, before, text + before)

    def replace_line(self, name: str, start: str, text: str) -> None:
        """Puts ``text`` in the place of the one line that begins with ``start``."""
        lines = (self.folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (line,) = [line for line in lines if line.startswith(start)]
        self._replace(name, line, text)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs Python on the copy."""
        environment = {**os.environ, "PYTHONPATH": f"{self.folder}{os.pathsep}{os.environ['PYTHONPATH']}"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def focalbench(self, *commands: Sequence[object]) -> list[Any]:
        """What several commands of the copy print with --json, in one process: one import of torch for all."""
        done = self.python("-c", _COMMANDS, json.dumps([[str(word) for word in command] for command in commands]))
        assert done.returncode == 0, done.stderr
        return [json.loads(text) for text in done.stdout.split("\0\n")[:-1]]

    def _replace(self, name: str, old: str, new: str) -> None:
        content = (self.folder / name).read_text(encoding="utf-8")
        assert content.count(old) == 1
        (self.folder / name).write_text(content.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A fresh copy for each module of tests."""
    return Recipe(tmp_path_factory.mktemp("copy"))
