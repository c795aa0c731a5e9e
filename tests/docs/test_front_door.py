"""What a stranger meets first: the README's length and pictures, and how to cite."""

import re
from pathlib import Path

import picture_record
import pytest
import yaml
from picture_record import IMAGES, outdated, read_record

from focalbench import __version__

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_shows_a_result_first() -> None:
    assert len(_README.splitlines()) <= 150
    assert _README.index("![") < _README.index("\n## ")


def test_every_picture_is_on_a_page_and_described() -> None:
    pages = [_ROOT / "README.md", *(_ROOT / "docs").glob("*.md")]
    shown = [found for page in pages for found in re.findall(r"!\[(.*?)\]\((\S+?)\)", page.read_text(encoding="utf-8"))]
    assert all(len(words) > 10 for words, _ in shown)
    names = {Path(target).name for _, target in shown}
    assert names == {path.name for path in (_ROOT / "docs" / "images").iterdir() if path.suffix not in {"", ".json"}}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()


def test_pictures_are_younger_than_the_code_that_draws_them() -> None:
    entries = read_record()
    assert set(entries) == {path.name for path in IMAGES.iterdir() if path.suffix in {".png", ".jpg", ".svg"}}
    hint = "make them anew, or look at them and say so: python scripts/picture_record.py --looked-at NAME"
    assert not outdated(), hint


def test_a_change_of_the_code_makes_its_pictures_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = tmp_path / "focalbench" / "board"
    code.mkdir(parents=True)
    (code / "page.py").write_text("colour = 1\n")
    monkeypatch.setattr(picture_record, "_PACKAGE", tmp_path / "focalbench")
    monkeypatch.setattr(picture_record, "CODE", {"board": ("board",), "other": ("board/page.py",)})
    monkeypatch.setattr(picture_record, "IMAGES", tmp_path)
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    picture_record.record(tmp_path / "a.png", "board")
    picture_record.record(tmp_path / "b.png", "other")
    assert not picture_record.outdated()
    (code / "more.py").write_text("")
    assert picture_record.outdated() == ["a.png"]
    (code / "page.py").write_text("colour = 2\n")
    (tmp_path / "b.png").unlink()
    assert picture_record.outdated() == ["a.png", "b.png"]
