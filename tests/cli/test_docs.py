"""``docs``: each page is listed and printed, and what messages point to is there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from focalbench.cli import app, docs
from focalbench.errors import ConfigError

_ROOT = Path(__file__).parents[2]
_PAGES = sorted(path.stem for path in (_ROOT / "docs").glob("*.md"))


def test_every_page_is_listed_with_its_title() -> None:
    shown = CliRunner().invoke(app, ["docs"]).output
    assert [line.split()[0] for line in shown.splitlines()[2:-1]] == _PAGES
    assert "Glossary" in shown


@pytest.mark.parametrize("name", ["statistics", "statistics.md"])
def test_a_page_is_printed_as_it_stands(name: str) -> None:
    shown = CliRunner().invoke(app, ["docs", name])
    assert shown.output.strip() == (_ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").strip()


def test_on_a_terminal_a_page_opens_in_the_pager(monkeypatch: pytest.MonkeyPatch) -> None:
    paged: list[str] = []
    monkeypatch.setattr(docs.pydoc, "pager", paged.append)
    monkeypatch.setattr(docs.sys.stdout, "isatty", lambda: True, raising=False)
    docs.docs("glossary")
    assert paged[0].startswith("# Glossary")


def test_an_unknown_page_is_named_with_the_nearest() -> None:
    ended = CliRunner().invoke(app, ["docs", "statistic"])
    assert isinstance(ended.exception, ConfigError)
    assert "did you mean 'statistics'?" in str(ended.exception)


def test_messages_point_to_pages_that_are_there() -> None:
    sources = [*(_ROOT / "focalbench").rglob("*.py"), *(_ROOT / "experiments").glob("*.yaml")]
    named = {name for path in sources for name in re.findall(r"focalbench docs ([a-z]\w*)", path.read_text())}
    assert {"statistics", "configuration"} <= named <= {*_PAGES}


def test_without_a_checkout_the_installed_pages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "guide.md").write_text("# Guide\n")
    monkeypatch.setattr(docs, "__file__", str(tmp_path / "a" / "b" / "docs.py"))
    installed = SimpleNamespace(name="guide.md", locate=lambda: tmp_path / "share" / "guide.md")
    monkeypatch.setattr(docs, "files", lambda name: [installed])
    assert CliRunner().invoke(app, ["docs", "guide"]).output == "# Guide\n\n"
    monkeypatch.setattr(docs, "files", lambda name: None)
    assert "not installed" in str(CliRunner().invoke(app, ["docs"]).exception)
