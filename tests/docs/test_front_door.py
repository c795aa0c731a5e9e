"""What a stranger meets first: the README's length and pictures, and how to cite."""

import re
from pathlib import Path

import yaml

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
    assert names == {path.name for path in (_ROOT / "docs" / "images").iterdir() if path.suffix}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
