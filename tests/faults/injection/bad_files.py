"""Configurations, checkpoints and trial folders that no honest hand made, and the command that meets each."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class BadConfig:
    """A configuration that must be refused with exit code 2.

    Attributes:
        content: of the file.
        overrides: values of ``-s``.
        names: a part of the message.
    """

    name: str
    content: bytes
    names: str
    overrides: tuple[str, ...] = ()


def _bomb() -> bytes:
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join(levels).encode()


CONFIGS = (
    BadConfig("a key twice", b"loss:\n  gamma: 1\n  gamma: 2\n", "repeated key"),
    BadConfig(
        "a tag that would run a command", b"name: !!python/object/apply:os.system ['touch owned']", "not allowed"
    ),
    BadConfig("a tag of a Python name", b"name: !!python/name:os.system", "not allowed"),
    BadConfig("an alias bomb", _bomb(), "more than 100000 values"),
    BadConfig("an alias in itself", b"loss: &a [*a]", "contains itself"),
    BadConfig("20,000 levels", b"name: " + b"[" * 20_000 + b"]" * 20_000, "levels deep"),
    BadConfig("two documents", b"name: a\n---\nname: b\n", "not YAML"),
    BadConfig("a picture", b"\x89PNG\r\n\x1a\n" + bytes(200), "UTF-8"),
    BadConfig("UTF-16", "name: a\n".encode("utf-16"), "UTF-8"),
    BadConfig("2 MB", b"# " + b"x" * 2_000_000, "larger than"),
    BadConfig("nothing", b"", "is empty"),
    BadConfig("a list", b"- 1\n- 2\n", "`key: value`"),
    BadConfig("no for false (YAML 1.1)", b"data: {augment: {crop: no}}", "should be true or false"),
    BadConfig("1:30 for 90 (YAML 1.1)", b"optim: {steps: 1:30}", "optim.steps"),
    BadConfig("a number of 5000 digits", b"seed: " + b"9" * 5000, "digits"),
    BadConfig("an epoch too many", b"optim: {epochs: 1e12}", "optim.epochs"),
    BadConfig("a canvas too large", b"data: {image_size: 10000000}", "data.image_size"),
    BadConfig("a batch too large", b"optim: {batch_size: 1000000000}", "optim.batch_size"),
    BadConfig("NaN", b"loss: {gamma: .nan}", "finite"),
    BadConfig("an unknown key", b"loss: {gama: 2}", "did you mean 'gamma'"),
    BadConfig("a sweep over an unknown key", b"sweep: {grid: {loss.gama: [1]}}", "did you mean 'gamma'"),
    BadConfig("a sweep without a trial", b"sweep: {seeds: [0], exclude: [{seed: 0}]}", "no trial is left"),
    BadConfig("a sweep of nothing", b"sweep: {seeds: []}", "sweep.seeds"),
    BadConfig("a billion trials", b"sweep: {seeds: [0], random: {num: 1000000000, params: {}}}", "sweep.random"),
    BadConfig("a name that climbs", b"name: ../../x", "name: should match"),
    BadConfig("an override without a value", b"name: a", "loss.gamma", ("loss.gamma",)),
    BadConfig("an override with a tag", b"name: a", "not allowed", ("name=!!python/name:os.system",)),
)


@dataclass(frozen=True)
class BadTrial:
    """A finished trial, spoilt, and the command that reads it.

    Attributes:
        spoil: works on a copy of the trial's folder.
        command: its words before the folder.
        code: exit code that is right.
        names: a part of what is printed.
    """

    name: str
    spoil: Callable[[Path], object]
    command: tuple[str, ...]
    code: int
    names: str


class _Payload:
    """Touches a file where a pickle is trusted."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def newest_checkpoint(trial: Path) -> Path:
    """The last by step, whole or not."""
    return sorted((trial / "checkpoints").glob("step-*.pt"))[-1]


def sign(path: Path) -> None:
    """Writes the checksum that belongs to ``path`` as it is."""
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def flip_a_bit(path: Path) -> None:
    """In the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """To two thirds."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def plant_pickle(path: Path) -> None:
    """Code for a checkpoint, with a checksum that fits."""
    torch.save({"format": 1, "payload": _Payload()}, path)
    sign(path)


def _every(spoil: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil_all(trial: Path) -> None:
        for path in (trial / "checkpoints").glob("*.pt"):
            spoil(path)

    return spoil_all


def _pickled_arrays(trial: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, image=np.array([_Payload()], dtype=object))
    (trial / "detections.npz").write_bytes(buffer.getvalue())


def _compressed_bomb(trial: Path) -> None:
    """Detections of 8 GB in 8 MB."""
    import zipfile

    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (2_000_000_000,)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(trial / "detections.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in ("image", "label", "score", "box", "gt_image", "gt_label", "gt_box", "gt_difficult"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(header.getvalue())
                for _ in range(125 if name == "image" else 1):
                    member.write(bytes(64_000_000))


def _fifo(name: str) -> Callable[[Path], None]:
    def spoil(trial: Path) -> None:
        (trial / name).unlink()
        os.mkfifo(trial / name)

    return spoil


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda trial: (trial / name).write_bytes(content)


def _mapping_bomb() -> bytes:
    levels = ["a0: &a0 {x: 1, y: 1, z: 1, u: 1, v: 1, w: 1, p: 1, q: 1, r: 1}"]
    keys = "xyzuvwpqr"
    levels += [f"a{i}: &a{i} {{{', '.join(f'{key}: *a{i - 1}' for key in keys)}}}" for i in range(1, 10)]
    return "\n".join(levels).encode()


def _hostile_text(trial: Path) -> None:
    document = json.loads((trial / "result.json").read_text())
    document["arm"] = "<script>alert(1)</script>\x1b[2J../../../etc"
    (trial / "result.json").write_text(json.dumps(document))


TRIALS = (
    BadTrial("a pickle for every checkpoint", _every(plant_pickle), ("evaluate",), 2, "plain tensors"),
    BadTrial("a flipped bit in every checkpoint", _every(flip_a_bit), ("evaluate",), 2, "damaged"),
    BadTrial("every checkpoint cut", _every(truncate), ("evaluate",), 2, "damaged"),
    BadTrial("a flipped bit in the newest", lambda t: flip_a_bit(newest_checkpoint(t)), ("evaluate",), 0, "damaged"),
    BadTrial("the newest cut", lambda t: truncate(newest_checkpoint(t)), ("evaluate",), 0, "damaged"),
    BadTrial(
        "a pickle for the newest", lambda t: plant_pickle(newest_checkpoint(t)), ("evaluate",), 0, "plain tensors"
    ),
    BadTrial("no checkpoint", lambda t: shutil.rmtree(t / "checkpoints"), ("evaluate",), 2, "no intact checkpoint"),
    BadTrial("a result that is no JSON", _write("result.json", b"{"), ("compare",), 2, "result.json"),
    BadTrial("a result of 100,000 levels", _write("result.json", b"[" * 100_000), ("compare",), 2, "result.json"),
    BadTrial(
        "a bomb of aliases for a configuration", _write("config.yaml", _mapping_bomb()), ("compare",), 2, "config"
    ),
    BadTrial("a FIFO for a result", _fifo("result.json"), ("compare",), 2, "result.json"),
    BadTrial("a FIFO for a configuration", _fifo("config.yaml"), ("compare",), 2, "config.yaml"),
    BadTrial("a FIFO for the metrics", _fifo("metrics.jsonl"), ("report",), 0, ""),
    BadTrial("metrics of noise", _write("metrics.jsonl", bytes(range(256)) * 999), ("report",), 0, ""),
    BadTrial("pickled arrays for detections", _pickled_arrays, ("report",), 0, ""),
    BadTrial("8 GB of detections in 8 MB", _compressed_bomb, ("report",), 0, ""),
    BadTrial("a script for an arm's name", _hostile_text, ("report",), 0, ""),
    BadTrial("events of noise", _write("events.out.tfevents.0.x.1", bytes(999)), ("report",), 0, ""),
)


def pickle_works() -> bool:
    """Whether the payload does its harm where a pickle is trusted; without that, a refusal shows nothing."""
    pickle.loads(pickle.dumps(_Payload()))
    return Path("owned").is_dir()
