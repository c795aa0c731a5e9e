"""Draws a terminal as a PNG, for the documentation: what tmux shows of a running command, in its colours.

tmux capture-pane -e -p -t PANE | python scripts/terminal_picture.py PICTURE.png --columns 120 --title 'focalbench run'
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from pathlib import Path

from make_pictures import find_browser, open_browser, save
from picture_record import CODE
from rich.console import Console
from rich.text import Text


def terminal_svg(ansi: str, columns: int, title: str) -> str:
    """Returns text with ANSI colours as the picture of a terminal."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(ansi.rstrip("\n"), no_wrap=True, overflow="crop"))
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=title), flags=re.DOTALL)  # they would be fetched


def main() -> None:
    """Reads a terminal's text on stdin and writes its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--columns", type=int, default=120)
    parser.add_argument("--title", default="")
    parser.add_argument("--shows", choices=CODE, default="status", help="whose code it shows [default: status]")
    parser.add_argument("--browser", metavar="PATH", help="[default: the first Chromium there is]")
    options = parser.parse_args()
    svg = terminal_svg(sys.stdin.read(), options.columns, options.title)
    match = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert match is not None, "rich wrote an SVG without a size"
    width, height = (round(float(side)) for side in match.groups())
    with tempfile.TemporaryDirectory() as folder, open_browser(find_browser(options.browser)) as browser:
        page = Path(folder) / "terminal.html"
        page.write_text(f'<body style="margin:0;width:{width}px">{svg}', encoding="utf-8")
        save(browser.picture(page.as_uri(), width, height), options.picture, options.shows)


if __name__ == "__main__":
    main()
