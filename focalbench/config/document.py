"""YAML 1.2 text to plain data, with the place of every key and value kept for error messages.

PyYAML's own loader reads ``1e-3`` as text, ``no`` as false, ``1:30`` as 90, and lets a repeated key win in silence;
this one reads scalars as YAML 1.2 does (core schema) and refuses repeated keys, tags, recursive or exploding aliases
and deep nesting.
"""

from __future__ import annotations

import copy
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import groupby
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any

import yaml

from focalbench.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Where a value stands: the keys and list positions that lead to it."""

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 40
MAX_DIGITS = 300

_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_TAG = "tag:yaml.org,2002:"
CORE_SCHEMA = (
    (_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    (_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    (_TAG + "int", _INT, list("-+0123456789")),
    (_TAG + "float", _FLOAT, list("-+.0123456789")),
)
"""Tag, pattern and first characters of every scalar that is not text."""


def _refusal(reason: str, place: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=place)


class _Loader(yaml.SafeLoader):
    """Composes nodes only; the scalars' types are resolved as in YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own convention
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """Compose the node one level down; refuse nesting that is deeper than any configuration needs."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refusal(f"nested more than {MAX_DEPTH} levels deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in CORE_SCHEMA:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


@dataclass(frozen=True)
class Mark:
    """A place that an error message can name.

    Attributes:
        where: ``file:line:column``, or the argument of the command line.
        line: the line of the file, or None for an argument.
        position: line and column, from 1; (0, 0) for an argument.
    """

    where: str
    line: str | None = None
    position: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ConfigFault:
    """One thing that is wrong: where it stands, its key, and why."""

    path: KeyPath
    reason: str
    mark: Mark | None = None
    on_key: bool = False

    def __str__(self) -> str:
        key, where = dotted(self.path), self.mark.where if self.mark else ""
        # Without a file the place is the key itself.
        parts = [where] if where and not key.startswith(where) else []
        parts += [key] if key else []
        return _clip(": ".join([*parts, self.reason]), 400)

    @property
    def line(self) -> str | None:
        """The line of the file that is at fault, indented."""
        return None if self.mark is None or self.mark.line is None else "    " + _clip(self.mark.line.strip(), 110)


def _clip(text: str, length: int) -> str:
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= length else text[: length - 3] + "..."


def dotted(path: KeyPath) -> str:
    """Writes ``("sweep", "list", 0, "loss")`` as ``sweep.list[0].loss``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def config_error(faults: list[ConfigFault], max_lines: int = 20) -> ConfigError:
    """Puts ``faults`` into one error of at most ``max_lines`` lines, in the order of the file and without repeats.

    Faults of one line stand together, followed by that line.
    """
    unique = {str(fault): fault for fault in faults}
    ordered = sorted(unique.values(), key=lambda fault: fault.mark.position if fault.mark else (0, 0))
    lines: list[str] = []
    num_shown = 0
    for line, of_line in groupby(ordered, key=lambda fault: fault.line):
        texts = [str(fault) for fault in of_line]
        fitting = texts[: max(0, max_lines - len(lines) - 2)]  # one line for the source, one for what does not fit
        lines += fitting + ([line] if line is not None and fitting else [])
        num_shown += len(fitting)
        if len(fitting) < len(texts):
            break
    if num_shown < len(ordered):
        lines.append(f"... and {len(ordered) - num_shown} more")
    return ConfigError("\n".join(lines))


@dataclass
class Document:
    """Plain data and the places its parts come from.

    Attributes:
        data: the mapping that the text holds.
        keys: the place of the key that leads to a path.
        values: the place of the value at a path.
        faults: what is wrong with the text itself.
        schema: the ExperimentConfig that the plugins named in it make; None: focalbench's own.
        text: that it was read from; empty where it never was text.
    """

    data: dict[str, Any]
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    faults: list[ConfigFault] = field(default_factory=list)
    schema: Any = None
    text: str = ""

    def copy(self) -> Document:
        """Returns a copy that can be changed without touching this one."""
        data, faults = copy.deepcopy(self.data), list(self.faults)
        return Document(data, dict(self.keys), dict(self.values), faults, self.schema, self.text)

    def mark(self, path: KeyPath, on_key: bool = False) -> Mark | None:
        """Returns the place of ``path``, or of the nearest part around it that has one."""
        first, second = (self.keys, self.values) if on_key else (self.values, self.keys)
        around = (path[:end] for end in range(len(path), -1, -1))
        return next((found for here in around if (found := first.get(here) or second.get(here))), None)

    def forget(self, path: KeyPath) -> None:
        """Drops the places of ``path`` and of all below it: the value there is replaced."""
        for places in (self.keys, self.values):
            for known in [known for known in places if known[: len(path)] == path]:
                del places[known]


def read_document(path: Path) -> Document:
    """Reads the YAML mapping in ``path``.

    Raises:
        ConfigError: when there is no such file, or it is not a regular file of UTF-8 text below 1 MB that holds a
            YAML mapping.
    """
    document = parse_document(_read_text(path), str(path))
    if document.faults:
        raise config_error(document.faults)
    return document


def _read_text(path: Path) -> str:
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            kind = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise ConfigError(f"{path}: is {kind}; a YAML file is needed")
        if info.st_size > MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_BYTES // 1000} kB, too large for a configuration")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_similar_file(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{_clip(str(path), 200)}: cannot be read: {reason}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text") from None


def _similar_file(path: Path) -> str:
    try:
        names = {entry.stem: entry.name for entry in path.parent.iterdir() if entry.suffix in {".yaml", ".yml"}}
    except OSError:
        return f": the folder {path.parent} is missing"
    close = get_close_matches(path.stem, names, n=1)
    return f"; did you mean {path.parent / names[close[0]]}?" if close else ""


def parse_document(text: str, source: str) -> Document:
    """Reads the mapping that ``text`` holds; ``source`` names the file in messages."""
    value, document = _parse(text, source, positions=True)
    if not document.faults and not isinstance(value, dict):
        reason = "is empty" if value is None else "should hold `key: value` lines"
        document.faults.append(ConfigFault((), reason, Mark(source)))
    document.data = value if isinstance(value, dict) else {}
    document.text = text
    return document


def plain_document(mapping: Mapping[str, Any]) -> Document:
    """Takes over what a Python mapping holds, as if it had been written as YAML: tuples are lists, paths text.

    Raises:
        ConfigError: all values at once that YAML could not hold, each with its key.
    """
    document = Document({})
    document.data = _plain(mapping, (), document.faults)
    if document.faults:
        raise config_error(document.faults)
    return document


def _plain(value: Any, path: KeyPath, faults: list[ConfigFault]) -> Any:
    if len(path) > MAX_DEPTH:
        faults.append(ConfigFault(path[:3], f"nested more than {MAX_DEPTH} levels deep"))
    elif isinstance(value, Mapping):
        faults += [ConfigFault(path, f"a key should be text, not {key!r}") for key in value if not isinstance(key, str)]
        return {key: _plain(inner, (*path, key), faults) for key, inner in value.items() if isinstance(key, str)}
    elif isinstance(value, list | tuple):
        return [_plain(inner, (*path, place), faults) for place, inner in enumerate(value)]
    elif value is None or isinstance(value, bool | str):
        return value
    elif isinstance(value, Integral | Real):  # numpy's numbers among them
        return int(value) if isinstance(value, Integral) else float(value)
    elif isinstance(value, PurePath):
        return str(value)
    else:
        faults.append(ConfigFault(path, f"a configuration cannot hold a value of type {type(value).__name__}"))
    return None


def parse_value(text: str, source: str) -> tuple[Any, Document]:
    """Reads one value as given on the command line; every place in it is ``source``."""
    value, document = _parse(text, source, positions=False)
    document.values.setdefault((), Mark(source))
    return value, document


def _parse(text: str, source: str, positions: bool) -> tuple[Any, Document]:
    document = Document({})
    reader = _Reader(document, source, text.splitlines() if positions else None)
    try:
        node = yaml.compose(text, Loader=_Loader)
        return (None if node is None else reader.read(node, ())), document
    except yaml.MarkedYAMLError as error:
        mark = reader.mark(error.problem_mark) if error.problem_mark else Mark(source)
        reason = " ".join(filter(None, [error.context, error.problem]))
    except yaml.YAMLError as error:
        mark, reason = Mark(source), str(error).splitlines()[0]
    document.faults.append(ConfigFault((), f"not YAML: {reason}", mark))
    return None, document


class _Reader:
    """Turns YAML nodes into plain data; notes places and faults in a document."""

    def __init__(self, document: Document, source: str, lines: list[str] | None) -> None:
        self.document = document
        self.source = source
        self.lines = lines
        self.num_nodes = 0
        self.open_nodes: set[int] = set()

    def mark(self, place: yaml.Mark) -> Mark:
        if self.lines is None:
            return Mark(self.source)
        line = self.lines[place.line] if place.line < len(self.lines) else ""
        position = (place.line + 1, place.column + 1)
        return Mark(f"{self.source}:{position[0]}:{position[1]}", line, position)

    def fault(self, path: KeyPath, reason: str, node: yaml.Node) -> None:
        self.document.faults.append(ConfigFault(path, reason, self.mark(node.start_mark)))

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        """Returns the plain value of ``node``; None where it is refused."""
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise _refusal(f"more than {MAX_NODES} values (aliases count each time they are used)", node.start_mark)
        if id(node) in self.open_nodes:
            raise _refusal("an alias that contains itself", node.start_mark)
        self.document.values[path] = self.mark(node.start_mark)
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self.open_nodes.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                self.fault(path, "a key should be text (put it in quotes)", key_node)
                continue
            key = key_node.value
            here = (*path, key)
            if key in mapping:
                place = f"; first used in line {self.document.keys[here].position[0]}" if self.lines else ""
                self.fault(here, f"repeated key{place}", key_node)
                continue
            self.document.keys[here] = self.mark(key_node.start_mark)
            mapping[key] = self.read(value_node, here)
        return mapping

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        kind = node.tag.removeprefix(_TAG)
        text = node.value
        if isinstance(node, yaml.ScalarNode):
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool" and text.lower() in {"true", "false"}:
                return text.lower() == "true"
            if kind in {"int", "float"} and len(text) > MAX_DIGITS:
                self.fault(path, f"a number of more than {MAX_DIGITS} digits", node)
                return None
            if kind == "int" and _INT.match(text):
                base = {"0o": 8, "0x": 16}.get(text[:2], 10)
                return int(text[2:] if base != 10 else text, base)
            if kind == "float" and _FLOAT.match(text):
                return _float(text)
        self.fault(path, f"the tag {_clip(node.tag, 60)} is not allowed here", node)
        return None


def _float(text: str) -> float | int:
    """Return the number in ``text``; 1e4 is whole, so that it also fits keys that count."""
    if text.lower().lstrip("+-") in {".inf", ".nan"}:
        return float(text.replace(".", ""))
    value = float(text)
    return int(value) if "." not in text and value.is_integer() and abs(value) < 2**53 else value
