"""detections.npz: what a trial found and what there was to find, so that later analysis needs no network."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.errors import DataError
from focalbench.storage import read_arrays, write_atomically

_FILE = "detections.npz"
_DETECTIONS = ("image", "label", "score", "box")
_TRUTH = ("image", "label", "box", "difficult")
_NAMES = ("image_ids", "classes")


class UnusableDetectionsError(DataError):
    """The stored detections cannot be used; the text says why."""


@dataclass(frozen=True)
class StoredDetections:
    """A trial's last detections and the annotated objects of its evaluation images.

    Attributes:
        detections: flat arrays image, label, score, box (VOC pixels).
        truth: flat arrays image, label, box, difficult.
        image_ids: (N,) text, the id of each image.
        classes: (K,) text, the name of each label.
    """

    detections: dict[str, NDArray[Any]]
    truth: dict[str, NDArray[Any]]
    image_ids: NDArray[Any]
    classes: NDArray[Any]

    def has_same_objects(self, other: StoredDetections) -> bool:
        """Tells whether both were made on the same images with the same objects and classes."""
        return all(np.array_equal(self.truth[name], other.truth[name]) for name in _TRUTH) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _NAMES
        )


def write_detections(
    folder: Path,
    detections: Mapping[str, NDArray[Any]],
    truth: Mapping[str, NDArray[Any]],
    *,
    image_ids: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Replaces the detections of the trial in ``folder``.

    Raises:
        StorageError: when the folder cannot be written.
    """
    arrays = {name: np.asarray(detections[name]) for name in _DETECTIONS}
    arrays |= {f"gt_{name}": np.asarray(truth[name]) for name in _TRUTH}
    arrays |= {"image_ids": np.array(image_ids), "classes": np.array(classes)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(folder / _FILE, buffer.getvalue())


def read_detections(folder: Path) -> StoredDetections:
    """Returns the detections of the trial in ``folder``.

    Raises:
        UnusableDetectionsError: a file that is missing, damaged or of another version, or names no images or classes.
    """
    path = folder / _FILE
    try:
        arrays = read_arrays(path, (*_DETECTIONS, *(f"gt_{name}" for name in _TRUTH), *_NAMES))
    except FileNotFoundError as fault:
        raise UnusableDetectionsError(f"{path} is missing") from fault
    except KeyError as fault:
        raise UnusableDetectionsError(f"{path}: written by another version, {fault.args[0]}") from fault
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as fault:
        raise UnusableDetectionsError(f"{path} cannot be read") from fault
    for name in _NAMES:
        if arrays[name].ndim != 1 or len(arrays[name]) == 0:
            raise UnusableDetectionsError(f"{path}: {name} is not a list of names")
    detections = {name: arrays[name] for name in _DETECTIONS}
    truth = {name: arrays[f"gt_{name}"] for name in _TRUTH}
    return StoredDetections(detections, truth, arrays["image_ids"], arrays["classes"])
