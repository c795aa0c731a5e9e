"""What a sweep was started from: the file as it was written, the command, versions, and the commit where there is one.

``runs/NAME/source`` holds experiment-DIGEST.yaml, one for each content that the file had, and commands.json: one entry
a command, the oldest first.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock
from pydantic import Field

from focalbench.config.load import Written
from focalbench.records.document import JsonDocument
from focalbench.storage import storage_faults, write_atomically
from focalbench.version import __version__

FOLDER = "source"
_LIST, _LOCK = "commands.json", ".lock"
_DIGITS = 8
_PACKAGES = ("torch", "torchvision")
_GIT_S = 10.0


class StartedFrom(JsonDocument):
    """One command that trained trials of the sweep.

    Attributes:
        time: in UTC, of the first time that it was given.
        command: as it was given; empty where it was a call from Python.
        file: name of the experiment's file in the folder.
        overrides: KEY=VALUE each, as after -s.
        versions: of focalbench, torch and torchvision.
        commit: of the repository that holds the experiment's file; empty where it lies in none.
    """

    time: str = ""
    command: str = ""
    file: str = ""
    overrides: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str = ""


class _Commands(JsonDocument):
    commands: list[StartedFrom] = Field(default_factory=list)


def keep_source(sweep: Path, written: Written, command: str) -> None:
    """Notes in the folder of a sweep what it is started from; nothing where the newest entry says the same.

    Raises:
        StorageError: when the folder cannot be written.
    """
    folder = sweep / FOLDER
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with storage_faults(folder), FileLock(folder / _LOCK):
        digest = hashlib.sha256(written.text.encode()).hexdigest()
        path = folder / f"experiment-{digest[:_DIGITS]}.yaml"
        if not path.exists():
            write_atomically(path, written.text.encode())
        entry = StartedFrom(
            time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            command=command,
            file=path.name,
            overrides=list(written.overrides),
            versions=_versions(),
            commit=_commit_of(written.folder),
        )
        known = read_commands(sweep)
        if not known or known[-1].model_copy(update={"time": entry.time}) != entry:
            _Commands(commands=[*known, entry]).write(folder / _LIST)


def read_commands(sweep: Path) -> list[StartedFrom]:
    """Returns what the sweep was started from, the oldest first; empty where nothing readable says it."""
    document, fault = _Commands.read(sweep / FOLDER / _LIST)
    return [] if fault else list(document.commands)


def _versions() -> dict[str, str]:
    found = {"focalbench": __version__}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _commit_of(folder: Path | None) -> str:
    """The commit of the repository around ``folder``; empty where there is none, or no git.

    Whether files differ from it is not asked: for that, git may run programs that the repository names.
    """
    if folder is None:
        return ""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    with suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_S,
            env=environment,
        ).stdout.strip()
    return ""
