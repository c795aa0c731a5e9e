"""A plugin's source: read without being executed, and known by a digest of what it says."""

import sys
from pathlib import Path

import pytest

from focalbench.errors import PluginError
from focalbench.plugins.source import read_source


def digest(entry: str) -> str:
    return read_source(entry).digest


def test_place_and_line_ends_of_a_file_do_not_count_but_every_character_of_it_does(plugin, tmp_path):
    plugin("x = 1\ny = 2\n", "a.py")
    (tmp_path / "else.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    assert digest("a.py") == digest("else.py") == digest(str(tmp_path / "a.py"))
    assert digest(plugin("x = 1  # one\ny = 2\n", "b.py")) != digest("a.py")


def test_nothing_is_executed(plugin):
    assert read_source(plugin("open('marker', 'w')\n")).name == "mine.py"
    assert not Path("marker").exists()


def test_a_module_is_all_of_its_files(plugin, tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("from own_package import losses\n")
    (package / "losses.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = read_source("own_package")
    assert [path for path, _ in first.files] == ["__init__.py", "losses.py"]
    (package / "losses.py").write_text("x = 2\n")
    assert digest("own_package") != first.digest
    sys.modules.pop("own_package", None)


@pytest.mark.parametrize(
    ("entry", "text", "words"),
    [
        ("mien.py", None, r"mien\.py: no such file; did you mean mine\.py\?"),
        ("no/such/mine.py", None, r"the folder no/such is missing"),
        ("no_such_module", None, r"no module of this name is installed; the path of a file must end in \.py"),
        ("math", None, "is not a module of Python source"),
        ("mine.py", "def f(:\n", r"mine\.py:1: is not Python"),
        ("mine.py", "x = '\0'\n", r"mine\.py.*is not Python"),
        (".py/", None, r"is a folder|no such file"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason(plugin, entry, text, words):
    plugin(text if text is not None else "x = 1\n")
    with pytest.raises(PluginError, match=words):
        read_source(entry)


def test_a_folder_a_foreign_encoding_and_a_huge_file_are_refused(plugin, tmp_path):
    plugin("")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "latin.py").write_bytes("x = 'ä'".encode("latin-1"))
    (tmp_path / "huge.py").write_text("#" * 1_000_001)
    for entry, words in (("folder.py", "a folder"), ("latin.py", "UTF-8"), ("huge.py", "larger than 1000 kB")):
        with pytest.raises(PluginError, match=words):
            read_source(entry)
