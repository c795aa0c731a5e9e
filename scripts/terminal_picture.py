"""Draws a terminal as a PNG, for the documentation: what tmux shows of a running command, in its colours.

tmux capture-pane -e -p -t PANE | python scripts/terminal_picture.py PICTURE.png --columns 120 --title 'focalbench run'
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text


def terminal_svg(ansi: str, columns: int, title: str) -> str:
    """Returns text with ANSI colours as the picture of a terminal."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(ansi.rstrip("\n"), no_wrap=True, overflow="crop"))
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=title), flags=re.DOTALL)  # they would be fetched


def write_png(svg: str, path: Path, chromium: str) -> None:
    """Has Chromium draw ``svg`` in its own size."""
    match = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert match is not None, "rich wrote an SVG without a size"
    width, height = (round(float(side)) for side in match.groups())
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "terminal.html"
        page.write_text(f'<body style="margin:0;width:{width}px">{svg}', encoding="utf-8")
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ]
        options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder}/profile"]
        options += ["--hide-scrollbars", f"--window-size={width},{height}", f"--screenshot={path.absolute()}"]
        subprocess.run([chromium, *options, page.as_uri()], check=True, capture_output=True, timeout=120)


def main() -> None:
    """Reads a terminal's text on stdin and writes its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--columns", type=int, default=120)
    parser.add_argument("--title", default="")
    parser.add_argument("--chromium", default="chromium")
    options = parser.parse_args()
    write_png(terminal_svg(sys.stdin.read(), options.columns, options.title), options.picture, options.chromium)


if __name__ == "__main__":
    main()
