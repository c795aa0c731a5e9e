"""Data sets of other tools, and the promise that they stay as they are."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from imported_sets import PICTURES, WRITERS, Picture, digest


@pytest.fixture(params=WRITERS)
def format(request: pytest.FixtureRequest) -> str:
    """Every format in turn."""
    return request.param


@pytest.fixture
def write_set(tmp_path: Path):
    """Writes pictures in a format and returns the folder."""

    def write(format: str, pictures: Sequence[Picture] = PICTURES) -> Path:
        WRITERS[format](tmp_path / "source", pictures)
        return tmp_path / "source"

    return write


@pytest.fixture
def unchanged():
    """Takes the digest of a folder, and compares it when the test is over."""
    folders: dict[Path, str] = {}

    def watch(folder: Path) -> Path:
        folders[folder] = digest(folder)
        return folder

    yield watch
    assert {folder: digest(folder) for folder in folders} == folders
