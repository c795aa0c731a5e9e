"""Reading weight files: tensors by name from torch's and safetensors' formats, and what another file is instead."""

from __future__ import annotations

import codecs
import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from focalbench.errors import DataError

# Names that a state dict may stand under in a larger one, in this order; a focalbench checkpoint uses "model".
_NESTED = ("model", "state_dict")

_HEAD = 1024  # bytes that are looked at
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's number in front of files of before version 1.6
_MOST_PICKLED = 16 * 2**20  # bytes searched for the names of classes
_MOST_HEADER = 100_000_000  # bytes of a safetensors header, the format's own limit
_AGAIN = "download it again"
_UNPACK = "is a compressed or tar archive: unpack it and give the weight file in it"
_CONVERT = "give a torch or safetensors file of the same network"
_SAVE = "save its tensors with torch.save(model.state_dict(), FILE), and give that file"
# Offset, bytes, what a file with them is.
_SIGNATURES = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the weights: fetch them with `git lfs pull`"),
    (0, b"/annex/objects/", "is a git-annex pointer, not the weights: fetch them with `git annex get`"),
    (0, b"\x89HDF\r\n\x1a\n", f"is an HDF5 file, as Keras writes them: {_CONVERT}"),
    (0, b"\x93NUMPY", "is a numpy array: save tensors by name with torch.save"),
    (0, b"GGUF", "is a GGUF file: no weights of a detector's backbone"),
    (4, b"TFL3", f"is a TensorFlow Lite model: {_CONVERT}"),
    (0, b"\x1f\x8b", _UNPACK),
    (0, b"BZh", _UNPACK),
    (0, b"\xfd7zXZ\x00", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", _UNPACK),
    (257, b"ustar", _UNPACK),
    (0, b"\xff\xd8\xff", "is an image, not weights"),
    (0, b"\x89PNG", "is an image, not weights"),
    (0, b"%PDF", "is a PDF document, not weights"),
)
# What tensors are made of in a pickle; the name of any other class is worth telling.
_TENSOR_MODULES = frozenset({"collections", "torch", "torch._utils", "torch.storage", "torch._tensor"})


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Returns the tensors in a torch or safetensors file by name; only plain tensors are ever unpickled.

    The format is told from the content, whatever the name ends in. Of a larger dictionary it is what stands under
    ``model`` or ``state_dict``, or the only state dict in it.

    Raises:
        DataError: when the file is missing, or saying what it is instead.
    """
    refuse_other_kinds(path)
    head = _head(path)
    if not _is_torch(head):
        if _is_safetensors(head) or path.suffix == ".safetensors":
            return _read_safetensors(path)
        raise DataError(f"{path}: {_unknown(head)}")
    try:
        with path.open("rb") as file:  # of a path, torch heeds the ending
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises many kinds, with advice to execute what is in the file
        raise DataError(f"{path}: {_why_unreadable(path)}") from fault
    return _state_in(content, path)


def holds_named_tensors(path: Path) -> bool:
    """Returns whether ``path`` starts like a torch or a safetensors file.

    Raises:
        DataError: when it is missing, or cannot be read.
    """
    head = _head(path)
    return _is_torch(head) or _is_safetensors(head)


def refuse_other_kinds(path: Path) -> None:
    """Tells from the first bytes what holds no weights in any format that is read here.

    Raises:
        DataError: when the file is missing, or saying what it is and the way out.
    """
    head = _head(path)
    kind = _kind_of_zip(path) if head.startswith(b"PK") else _kind(head)
    if kind is not None:
        raise DataError(f"{path}: {kind}")


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder: model.weights is the path of the weight file in it")
        if not path.is_file():
            raise DataError(f"{path}: no such weight file: {_what_was_meant(path)}")
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as fault:
        raise DataError(f"{path}: cannot be read: {fault.strerror or fault}") from fault


def _what_was_meant(path: Path) -> str:
    if path.parts[:1] in (("http:",), ("https:",)):
        return "it is an address: download the file and give its path as model.weights"
    return "model.weights is none, imagenet or the path of a file"


def _kind(head: bytes) -> str | None:
    """What a file that is no zip archive is, when it holds no weights for certain."""
    if not head:
        return f"is empty: {_AGAIN}"
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    if head[:1] == b"\x08" and head[2:3] == b"\x12" and b"\x00" not in head[:4]:  # ir_version, producer_name
        return f"is an ONNX model: {_CONVERT}"
    if head[:1] == b"\x80" and 2 <= head[1] <= 5 and not head.startswith(_OLD_TORCH):
        return "is a pickle that torch did not write: load it where it was made and save its tensors with torch.save"
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> str | None:
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()[:200].lower()
    if begin.startswith((b"<!doctype html", b"<html", b"<head")) or b"<html" in head.lower():
        return "is a web page, not weights: download the file itself, and check its size"
    if not _is_text(head):
        return None
    if begin.startswith(b"<"):
        return "is an XML document, such as a server's refusal, not weights: download the file itself"
    if begin.startswith((b"{", b"[")):
        return "is JSON text, not weights: download the weight file itself"
    return "is a text file, not weights: download the weight file itself"


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)  # the last letter may be cut
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _kind_of_zip(path: Path) -> str | None:
    """What a zip archive is that torch.save has not written; None where it has."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return f"is cut off or damaged: {_AGAIN}"
    last_parts = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last_parts and any("/code/" in name for name in names):
        return f"is a TorchScript program: load it with torch.jit.load and {_SAVE}"
    if "data.pkl" in last_parts:
        return None
    if last_parts & {"model.weights.h5", "metadata.json"} == {"model.weights.h5", "metadata.json"}:
        return f"is a Keras model: {_CONVERT}"
    if names and all(name.endswith(".npy") for name in names):
        return "is an archive of numpy arrays: save them as tensors by name with torch.save"
    return "is a zip archive that torch.save did not write: unpack it and give the weight file in it"


def _is_torch(head: bytes) -> bool:
    return head.startswith((b"PK", _OLD_TORCH))


def _is_safetensors(head: bytes) -> bool:
    """A length, then a header in JSON."""
    return head[8:9] == b"{" and 2 <= struct.unpack_from("<Q", head)[0] <= _MOST_HEADER


def _unknown(head: bytes) -> str:
    if len(head) >= 16 and struct.unpack_from("<2i", head) in ((0, 1), (0, 2)):
        return "is a darknet weight file: those are for model.name: yolov2"
    return "is neither a torch nor a safetensors file"


def _why_unreadable(path: Path) -> str:
    """Why torch could not read its own format as plain tensors."""
    found = [name for name in _pickled_classes(path) if name.rpartition(".")[0] not in _TENSOR_MODULES]
    if not found:
        return f"is a torch file that is cut off or damaged: {_AGAIN}"
    shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    kind = "is a pickled model" if any(name.startswith("torch.nn.") for name in found) else "holds Python objects"
    return f"{kind} ({shown}), and reading that would execute it: where it was made, {_SAVE}"


def _pickled_classes(path: Path) -> list[str]:
    """Full names of what a torch file would import, each once, in their order; nothing of it is executed."""
    found: dict[str, None] = {}
    try:
        with _open_pickle(path) as pickled:
            for _ in range(4):  # in old files: torch's number, version, machine, content
                words: list[str] = []
                for opcode, argument, _ in pickletools.genops(pickled):
                    if opcode.name == "GLOBAL":
                        found[str(argument).replace(" ", ".")] = None
                    elif opcode.name == "STACK_GLOBAL" and len(words) > 1:
                        found[".".join(words[-2:])] = None
                    elif isinstance(argument, str):
                        words.append(argument)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # its end, or damage
        pass
    return list(found)


def _open_pickle(path: Path) -> BinaryIO:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return io.BytesIO(file.read(_MOST_PICKLED))
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
        with archive.open(name) as file:
            return io.BytesIO(file.read(_MOST_PICKLED))


def _state_in(content: object, path: Path) -> dict[str, Tensor]:
    state = content
    if isinstance(content, Mapping) and not _is_state(content):
        nested = {name: value for name, value in content.items() if _is_state(value)}
        names = [name for name in _NESTED if name in nested] or list(nested)
        if len(names) > 1 and names[0] not in _NESTED:
            shown = ", ".join(map(str, names[:5]))
            raise DataError(f"{path}: holds several state dicts ({shown}): save the right one in a file of its own")
        state = nested[names[0]] if names else None
    if not isinstance(state, Mapping) or not _is_state(state):
        raise DataError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return {str(name): value for name, value in state.items()}


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if find_spec("safetensors") is None:
        raise DataError(f"{path}: the library safetensors is not installed: pip install 'focalbench[timm]'")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(os.fspath(path))
    except (OSError, SafetensorError) as fault:
        raise DataError(f"{path}: not a safetensors file, or damaged: {fault}") from fault
