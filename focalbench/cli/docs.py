"""``docs``: the pages of documentation, wherever they were installed."""

from __future__ import annotations

import difflib
import pydoc
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Annotated

import typer

from focalbench import console
from focalbench.errors import ConfigError

_FIRST = "guide.md"


def _complete_page(incomplete: str) -> list[str]:
    return [path.stem for path in _pages() if path.stem.startswith(incomplete)]


def docs(
    page: Annotated[
        str | None,
        typer.Argument(
            metavar="PAGE",
            help="Its name, as in statistics. Default: list all pages.",
            show_default=False,
            autocompletion=_complete_page,
        ),
    ] = None,
) -> None:
    """Read the documentation: list its pages, or print one."""
    pages = {path.stem: path for path in _pages()}
    if not pages:
        raise ConfigError("the pages were not installed: they are in the folder docs of focalbench's source")
    if page is None:
        console.print_table(["page", "about"], [(name, _title(path)) for name, path in pages.items()])
        console.print_text(f"in {pages['guide'].parent}")
        return
    name = page.removesuffix(".md")
    if name not in pages:
        close = difflib.get_close_matches(name, pages, n=1)
        meant = f"; did you mean '{close[0]}'?" if close else f": {', '.join(pages)}"
        raise ConfigError(f"no page is called {page!r}{meant}")
    text = pages[name].read_text(encoding="utf-8")
    if sys.stdout.isatty():
        pydoc.pager(text)
    else:
        typer.echo(text)


def _pages() -> list[Path]:
    """The pages beside the package, in a checkout, or where pip has put them; empty where they are nowhere."""
    beside = Path(__file__).parents[2] / "docs"
    if (beside / _FIRST).is_file():
        return sorted(beside.glob("*.md"))
    try:
        installed = [Path(str(file.locate())) for file in files("focalbench") or () if file.name == _FIRST]
    except PackageNotFoundError:
        installed = []
    return sorted(installed[0].resolve().parent.glob("*.md")) if installed else []


def _title(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ")
