"""Does what ``focalbench report`` does: writes runs as one HTML file that needs neither network nor script.

Names, paths and reasons come from files that anyone may have written: the template escapes everything, and the page's
content policy forbids requests, and all scripts but the one that sorts tables, even if something slipped through.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.analysis.formats import heading, p_value, points_words, signed
from focalbench.console import points
from focalbench.records.reader import read_trials
from focalbench.report.page import Page, build_page
from focalbench.storage import storage_faults, write_output
from focalbench.version import __version__

_TEMPLATE, _SCRIPT = "report.html", "report.js"


def write_report(paths: Sequence[Path], output: Path, *, baseline: str | None = None) -> Comparison:
    """Writes the page for every trial at or below ``paths`` to ``output``, whole or not at all.

    Args:
        paths: run folders or trial folders.
        output: the HTML file; its folder is made where missing.
        baseline: the arm compared with; None chooses plain cross entropy.

    Returns:
        the comparison that the page shows.

    Raises:
        ConfigError: an unknown baseline.
        DataError: no trial there, or none that has finished.
        StorageError: ``output`` cannot be written.
    """
    trials = read_trials(paths)
    comparison = compare_trials(trials, baseline=baseline)
    page = build_page(trials, comparison, paths, created=datetime.now(UTC))
    content = render_page(page).encode("utf-8", errors="replace")
    with storage_faults(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_output(output, content)
    return comparison


def render_page(page: Page) -> str:
    """Returns the page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"heading": heading, "points": points, "signed": signed, "p_value": p_value}
    environment.filters["points_words"] = points_words
    environment.filters["breakable"] = breakable
    script = Markup((Path(__file__).parent / _SCRIPT).read_text(encoding="utf-8"))  # our own: the page allows no other
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(_TEMPLATE).render(
        page=page, version=__version__, script=script, script_hash=script_hash
    )


def breakable(name: str) -> Markup:
    """Returns ``name``, escaped, with places where a narrow column may break it: ``gamma=1,`` ``alpha=0.5``."""
    text = str(escape(name))
    for mark in (",", "_", "/"):
        text = text.replace(mark, f"{mark}<wbr>")
    return Markup(text)
