"""Names are written with a font that has their letters, and shown as a number where there is none."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from focalbench.figures import lettering
from focalbench.figures.lettering import drawable, font_for, label_of, shortened, undrawable


@pytest.fixture
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without fonts of its own."""
    monkeypatch.setattr(lettering, "_installed", lambda: ())
    lettering._font_file.cache_clear()
    yield
    lettering._font_file.cache_clear()


@pytest.mark.parametrize("name", ["person", "кошка", "γάτα", "Straßenbahn/Öl", "kočka", "a b", "œuf", "100 %"])
def test_latin_greek_and_cyrillic_need_no_installed_font(only_dejavu: None, name: str) -> None:
    assert label_of(name, 3) == name
    assert font_for(name, 16).path == lettering._dejavu()
    assert drawable(name)


@pytest.mark.parametrize("name", ["猫", "고양이", "ねこ", "cat 猫", "", " ", "\n", "\u200d", "\ud800", "\x00"])
def test_what_no_font_can_write_is_a_number(only_dejavu: None, name: str) -> None:
    assert label_of(name, 3) == "#3"
    assert not drawable(name)
    assert undrawable(("cat", name, "dog")) == {1: name}


def test_an_installed_font_that_has_the_letters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    without, having = Path("without.ttf"), Path("having.ttf")
    points = {without: frozenset(range(128)), having: frozenset([*range(128), ord("猫"), ord("…")])}
    real = lettering._code_points
    monkeypatch.setattr(lettering, "_installed", lambda: (without, having))
    monkeypatch.setattr(lettering, "_code_points", lambda path: points[path] if path in points else real(path))
    lettering._font_file.cache_clear()
    try:
        assert lettering._font_file("猫") == having
        assert label_of("猫", 0) == "猫"
        assert lettering._font_file("кот") == lettering._dejavu()
    finally:
        lettering._font_file.cache_clear()


def test_installed_fonts_can_be_read() -> None:
    assert all(lettering._code_points(path) for path in lettering._installed()[:5])


def test_a_file_that_is_no_font_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "broken.ttf"
    path.write_bytes(b"no font")
    assert lettering._style(path) is None


def test_a_name_is_one_line_without_what_cannot_be_seen() -> None:
    assert label_of("traffic\r\nlight\t \u00a0red\x07", 0) == "traffic light red"
    assert label_of(unicodedata.normalize("NFD", "é"), 0) == "é"
    assert label_of("a\u200bb\ufe0f", 0) == "ab"
    assert label_of("road/sign", 0) == "road/sign"


def test_a_long_name_is_cut_to_its_width() -> None:
    font = font_for("a", 16)
    cut = shortened("ab" * 100, font, 150)
    assert cut.endswith("…")
    assert cut.startswith("abab")
    assert 120 < font.getlength(cut) <= 150
    assert shortened("abc", font, 150) == "abc"
    assert shortened("abc", font, 0) == "…"
