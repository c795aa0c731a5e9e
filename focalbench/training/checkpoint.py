"""Checkpoints that survive a kill at any moment, and say so when they do not fit.

A checkpoint is two files: ``step-00000500.pt`` and, beside it, its SHA-256. Each is written to a temporary file in the
same folder, flushed to the disk and renamed; the data file first, so that a checksum without its data file cannot be. A
data file without its checksum is one whose writer was killed: it is skipped. Loading never runs code
(``weights_only``).
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from focalbench.errors import CheckpointError
from focalbench.tracking.records import storage_faults, write_atomically

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8})\.pt")
BEST = "best.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], *, step: int, keep: int) -> Path:
    """Writes ``state`` as the checkpoint of ``step`` and removes all but the ``keep`` newest.

    Raises:
        StorageError: when the folder cannot be written; older checkpoints are untouched.
    """
    path = folder / f"step-{step:08d}.pt"
    _write_with_checksum(path, _serialise(state))
    for old in list_checkpoints(folder)[keep:]:
        _checksum_path(old).unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def save_best(folder: Path, state: dict[str, Any]) -> Path:
    """Writes ``state`` as the best checkpoint so far.

    Raises:
        StorageError: when the folder cannot be written.
    """
    path = folder / BEST
    _write_with_checksum(path, _serialise(state))
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The step checkpoints in ``folder``, newest (by step) first; whole or not."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: p.name, reverse=True)


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None; each damaged one that is passed over is warned about.

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
                warnings.warn(f"{fault}; going on from the checkpoint before it", stacklevel=2)
    # A first write that was cut off leaves a data file without checksum and nothing older: start anew.
    if reasons and any(_checksum_path(path).exists() for path in paths):
        raise CheckpointError(f"{reasons[0]}; no older checkpoint is whole; use --fresh to start again")
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved in ``path``, after its checksum and version were checked.

    Raises:
        CheckpointError: when the file is missing, damaged, unsafe, or of another format version.
    """
    try:
        content = path.read_bytes()
        expected = _checksum_path(path).read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError) as fault:
        raise CheckpointError(f"{path}: cannot be read with its checksum ({fault.__class__.__name__})") from fault
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one written beside it")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises many kinds for files that are not tensors
        raise CheckpointError(f"{path}: not a checkpoint of plain tensors: {str(fault).splitlines()[0]}") from fault
    version = state.get("format") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version}, this focalbench reads {FORMAT_VERSION}")
    return state


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files that a killed writer left; only the owner of the trial may call it."""
    for path in folder.glob(".*.pt*"):
        path.unlink(missing_ok=True)


def _serialise(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": FORMAT_VERSION, **state}, buffer)
    return buffer.getvalue()


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write_with_checksum(path: Path, content: bytes) -> None:
    """Data file, then checksum. Replacing a file, its old checksum goes first: new data never stand beside an old
    sum.
    """
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _checksum_path(path).unlink(missing_ok=True)
    write_atomically(path, content)
    write_atomically(_checksum_path(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode("ascii"))
