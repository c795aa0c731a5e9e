"""A plugin's source as text: read without being executed, hashed, and carried to wherever a trial is trained."""

from __future__ import annotations

import hashlib
import importlib.util
import stat
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel

from focalbench.errors import PluginError

_MAX_BYTES = 1_000_000
_MAX_FILES = 200
DIGEST_LENGTH = 16


class PluginSource(BaseModel, frozen=True):
    """The source of one plugin.

    Attributes:
        origin: as the configuration writes it: the path of a file, or the name of a module.
        files: path below the plugin's own folder, and text, of its one file or of all files of the module.
    """

    origin: str
    files: tuple[tuple[str, str], ...]

    @property
    def is_file(self) -> bool:
        """Whether the plugin is a file and no installed module."""
        return is_path(self.origin)

    @property
    def name(self) -> str:
        """What it is called in messages: ``my_losses.py``, ``package.losses``."""
        return Path(self.origin).name if self.is_file else self.origin

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of the SHA-256 of the source; where the file lies and how its lines end do not matter."""
        found = hashlib.sha256()
        for path, text in self.files:
            found.update(f"{'' if self.is_file else path}\0{text}\0".encode())
        return found.hexdigest()[:DIGEST_LENGTH]


def is_path(entry: str) -> bool:
    """Tells whether an entry of ``plugins`` is the path of a file, not the name of a module."""
    return entry.endswith(".py") or "/" in entry or "\\" in entry


def read_source(entry: str) -> PluginSource:
    """Reads the plugin that ``entry`` names: a path from the current folder, or an installed module.

    Raises:
        PluginError: when there is no such file or module, or it is not Python: with the line.
    """
    files = _file_of(entry) if is_path(entry) else _files_of_module(entry)
    for path, text in files:
        try:
            compile(text, path, "exec")
        except (SyntaxError, ValueError) as fault:
            line = getattr(fault, "lineno", None)
            name = entry if is_path(entry) else path
            reason = getattr(fault, "msg", None) or fault
            raise PluginError(f"{name}{f':{line}' if line else ''}: is not Python: {reason}") from None
    return PluginSource(origin=entry, files=files)


def _file_of(entry: str) -> tuple[tuple[str, str], ...]:
    path = Path(entry).expanduser()
    if not path.exists():
        raise PluginError(f"{entry}: no such file{_similar(path)}")
    return ((path.name, _read(path, entry)),)


def _similar(path: Path) -> str:
    try:
        names = [other.name for other in path.parent.iterdir() if other.suffix == ".py"]
    except OSError:
        return f": the folder {path.parent} is missing"
    close = get_close_matches(path.name, names, n=1)
    if close:
        return f"; did you mean {path.parent / close[0]}?"
    return f" in {Path.cwd()}" if not path.is_absolute() else ""


def _files_of_module(name: str) -> tuple[tuple[str, str], ...]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        raise PluginError(f"{name}: no module of this name is installed; the path of a file must end in .py")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise PluginError(f"{name}: is not a module of Python source")
    path = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return ((path.name, _read(path, name)),)
    found = sorted(path.parent.rglob("*.py"))
    if len(found) > _MAX_FILES:
        raise PluginError(f"{name}: has more than {_MAX_FILES} files; name the module of the plugin itself")
    return tuple((file.relative_to(path.parent).as_posix(), _read(file, name)) for file in found)


def _read(path: Path, entry: str) -> str:
    """The text of a plugin's file, with plain line ends."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            kind = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise PluginError(f"{entry}: {path} is {kind}; a Python file is needed")
        if info.st_size > _MAX_BYTES:
            raise PluginError(f"{entry}: {path} is larger than {_MAX_BYTES // 1000} kB, too large for a plugin")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise PluginError(f"{entry}: {path} is not UTF-8 text") from None
    except OSError as fault:
        raise PluginError(f"{entry}: {path} cannot be read: {fault.strerror}") from None
