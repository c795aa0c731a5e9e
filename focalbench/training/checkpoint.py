"""Checkpoints that survive a kill at any moment, and say so when they do not fit.

A checkpoint is two files: ``step-00000500.pt`` and, beside it, its SHA-256. Each is written to a temporary file in the
same folder, flushed to the disk and renamed. The checksum goes first: a data file is never without one, whenever its
writer was killed. While a file is replaced, its checksums are two lines, of the old content and of the new. Loading
never runs code (``weights_only``).
"""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from focalbench.errors import CheckpointError
from focalbench.storage import START_ANEW, read_regular, remove_unfinished, storage_faults, write_atomically

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8})\.pt")
BEST = "best.pt"
OPTIMIZER = "optimizer"
"""Entry of the optimizer's state: None in the checkpoint of a finished training."""
_CHECKSUM_SUFFIX = ".sha256"
_MAX_BYTES = 16 * 2**30


def save_checkpoint(folder: Path, state: dict[str, Any], *, step: int, keep: int) -> Path:
    """Writes ``state`` as the checkpoint of ``step`` and removes all but the ``keep`` newest.

    A checkpoint of a later step goes too: training has gone back behind it, because it was damaged.

    Raises:
        StorageError: when the folder cannot be written; older checkpoints are untouched.
    """
    path = folder / f"step-{step:08d}.pt"
    _write_with_checksum(path, _serialise(state))
    others = list_checkpoints(folder)
    place = others.index(path)
    for other in others[:place] + others[place + keep :]:
        with storage_faults(other):
            other.unlink(missing_ok=True)
            _checksum_path(other).unlink(missing_ok=True)
    return path


def save_best(folder: Path, state: dict[str, Any]) -> Path:
    """Writes ``state`` as the best checkpoint so far.

    Raises:
        StorageError: when the folder cannot be written.
    """
    path = folder / BEST
    _write_with_checksum(path, _serialise(state))
    return path


def keep_weights(folder: Path) -> int:
    """Removes what only a training that goes on needs: the optimizer's state, and all step checkpoints but the newest;
    only the owner of the trial may call it.

    Where the best evaluation was the last one, of weights that are no moving average, both names mean one file. Does
    nothing where that was done before.

    Returns:
        bytes that were freed.

    Raises:
        CheckpointError: when the newest checkpoint is not whole; nothing was removed.
        StorageError: when the folder cannot be written; the newest checkpoint stays whole.
    """
    paths = list_checkpoints(folder)
    if not paths:
        return 0
    state, newest, best = load_checkpoint(paths[0]), paths[0], folder / BEST
    with storage_faults(folder):
        before = _bytes_in(folder)
        remove_leftovers(folder)
        if len(paths) > 1 or state.get(OPTIMIZER) is not None:
            newest = save_checkpoint(folder, {**state, OPTIMIZER: None}, step=state["step"], keep=1)
        if "ema" not in state and best.exists() and not best.samefile(newest):
            with suppress(CheckpointError):  # a damaged one stays as it is
                if load_checkpoint(best)["step"] == state["step"]:
                    _link(newest, best)
        return before - _bytes_in(folder)


def _link(path: Path, name: Path) -> None:
    """Makes ``name`` another name of the checkpoint ``path``, or a copy of it where the disk has no hard links."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    _write_checksums(name, [digest, *_checksums(name)])  # both hold, whenever a kill comes
    temporary = name.with_name(f".{name.name}.{secrets.token_hex(4)}")
    try:
        temporary.hardlink_to(path)
        temporary.replace(name)
    except OSError:
        temporary.unlink(missing_ok=True)
        write_atomically(name, content)
    _write_checksums(name, [digest])


def _bytes_in(folder: Path) -> int:
    """What the files in ``folder`` take, a file with two names once."""
    return sum({info.st_ino: info.st_size for info in (path.stat() for path in folder.iterdir())}.values())


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the step checkpoints in ``folder``, newest (by step) first; whole or not."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: p.name, reverse=True)


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Returns the newest checkpoint that is whole, or None; each damaged one that is passed over is warned about.

    Raises:
        CheckpointError: when checkpoints exist and none is whole, or one was written by a newer focalbench.
    """
    paths = list_checkpoints(folder)
    reasons = []
    for path in paths:
        try:
            return load_checkpoint(path)
        except CheckpointError as fault:
            reasons.append(str(fault))
            if path != paths[-1]:
                warnings.warn(f"{fault}; resuming from the checkpoint before it", stacklevel=2)
    if reasons:
        raise CheckpointError(f"{reasons[0]}; no older checkpoint is intact; {START_ANEW}")
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the state saved in ``path``, after its checksum and version were checked.

    Raises:
        CheckpointError: when the file is missing, damaged, unsafe, or of another format version.
    """
    try:
        expected = _checksums(path)
        content = read_regular(path, _MAX_BYTES)
        expected += _checksums(path)  # of the new content, where the file was replaced meanwhile
    except (OSError, ValueError) as fault:
        raise CheckpointError(f"{path}: cannot be read with its checksum ({fault.__class__.__name__})") from fault
    if hashlib.sha256(content).hexdigest() not in expected:
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one written beside it")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises many kinds for files that are not tensors
        raise CheckpointError(f"{path}: not a checkpoint of plain tensors: {str(fault).splitlines()[0]}") from fault
    version = state.get("format") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version}, but this focalbench reads {FORMAT_VERSION}")
    return state


def remove_leftovers(folder: Path) -> None:
    """Deletes what a killed writer left, temporary files and checksums of nothing; only the owner of the trial may call
    it.
    """
    remove_unfinished(folder)
    for path in folder.glob(f"*.pt{_CHECKSUM_SUFFIX}"):
        if not path.with_suffix("").exists():
            path.unlink(missing_ok=True)


def _serialise(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": FORMAT_VERSION, **state}, buffer)
    return buffer.getvalue()


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + _CHECKSUM_SUFFIX)


def _checksums(path: Path) -> list[str]:
    """The first word of each line, as ``sha256sum`` writes them."""
    return [line.split()[0] for line in read_regular(_checksum_path(path)).decode("ascii").splitlines() if line.strip()]


def _write_with_checksum(path: Path, content: bytes) -> None:
    """Checksum, then data file. Where an older file is replaced, its checksum stays valid until it is gone."""
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    replaced: list[str] = []
    if path.exists():
        with suppress(OSError, ValueError):  # without a checksum that can be read, the old content was lost already
            replaced = _checksums(path)
    _write_checksums(path, [digest, *replaced])
    write_atomically(path, content)
    if replaced:
        _write_checksums(path, [digest])


def _write_checksums(path: Path, digests: list[str]) -> None:
    write_atomically(_checksum_path(path), "".join(f"{digest}  {path.name}\n" for digest in digests).encode("ascii"))
