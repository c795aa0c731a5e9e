"""docs/references.md knows every paper that the package and its pages cite, and every note."""

import re
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[2]
_PAGE = _CHECKOUT / "docs" / "references.md"
_CITING = [
    path
    for folder in ("focalbench", "docs", "experiments")
    for path in sorted((_CHECKOUT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".yaml") and path != _PAGE
]


@pytest.mark.parametrize("pattern", [r"arXiv:(\d{4}\.\d{5})", r"(\w+ note\b)[^.]{0,40}references\.md"])
def test_whatever_is_cited_is_on_the_page(pattern: str) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in _CITING)
    cited = set(re.findall(pattern, text))
    assert cited
    page = _PAGE.read_text(encoding="utf-8")
    assert sorted(name for name in cited if name not in page) == []
