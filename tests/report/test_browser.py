"""The page in headless Chromium: quiet, complete, narrow enough for a phone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focalbench.report.html import write_report

pytestmark = pytest.mark.browser

ARMS = {
    "ce": ({"name": "ce"}, [0.600, 0.605, 0.595]),
    "a-very-long-name-of-an-arm-that-no-column-of-a-phone-can-hold-without-a-break=0.123456789": (
        {"name": "focal", "gamma": 1.0, "alpha": 0.25},
        [0.620, 0.615, 0.625],
    ),
    "b": ({"name": "focal", "gamma": 2.0, "alpha": 0.25}, [0.630, 0.625, 0.635]),
    "c": ({"name": "focal", "gamma": 1.0, "alpha": 0.5}, [0.610, 0.615, 0.605]),
    "d": ({"name": "focal", "gamma": 2.0, "alpha": 0.5}, [0.611, 0.616, 0.607]),
}
CLASSES = ["circle", "a" * 90, "<script>console.error(1)</script>", "triangle"]


@pytest.mark.parametrize("width", [380, 1200])
def test_page_in_a_browser(width: int, write_run: Callable[..., Path], tmp_path: Path, browser: Any) -> None:
    page = tmp_path / "page.html"
    write_report([write_run(ARMS, classes=CLASSES)], page)
    browser.open(page, width=width)
    pictures = browser.evaluate("[...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0])")
    assert len(pictures) > 20
    assert [alt for alt, loaded in pictures if not loaded] == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.body.querySelectorAll('*')]"
        f".filter(e => e.getBoundingClientRect().right > {width} + 0.5 && !e.closest('.scroll, pre'))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.evaluate(outside) == []
    methods = [event["method"] for event in browser.events]
    assert "Log.entryAdded" not in methods
    assert "Runtime.consoleAPICalled" not in methods
    assert "Runtime.exceptionThrown" not in methods
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith(("data:", page.as_uri()))] == []


def test_the_browser_would_notice(tmp_path: Path, browser: Any) -> None:
    """A page with one of each fault, so that the checks above are known to see them."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<img src="missing.png"><div style="width: 900px">wide</div><script>console.error("x")</script>'
    )
    browser.open(page, width=380)
    assert browser.evaluate("document.images[0].naturalWidth") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") > 380
    methods = [event["method"] for event in browser.events]
    assert "Runtime.consoleAPICalled" in methods
    assert any(
        "missing.png" in str(event) for event in browser.events if event["method"] == "Network.requestWillBeSent"
    )


def test_a_heading_sorts_its_table_and_turns_it_round(
    write_run: Callable[..., Path], tmp_path: Path, browser: Any
) -> None:
    page = tmp_path / "page.html"
    write_report([write_run(ARMS)], page)
    browser.open(page, width=1200)
    column = "[...document.querySelectorAll('.verdicts tbody tr')].map(row => row.cells[6].innerText)"
    click = "document.querySelectorAll('.verdicts thead th')[6].click()"
    before = browser.evaluate(column)
    browser.evaluate(click)
    rising = browser.evaluate(column)
    browser.evaluate(click)
    assert rising == sorted(before, key=float) != before
    assert browser.evaluate(column) == rising[::-1]
    assert browser.evaluate("document.querySelectorAll('.verdicts thead th')[6].ariaSort") == "descending"


def test_the_page_is_dark_where_the_reader_asks_for_it(
    write_run: Callable[..., Path], tmp_path: Path, browser: Any
) -> None:
    page = tmp_path / "page.html"
    write_report([write_run({"ce": ({"name": "ce"}, [0.6] * 6)})], page)
    browser.open(page, width=1200)
    paper = "getComputedStyle(document.body).backgroundColor"
    seen = []
    for scheme in ("light", "dark"):
        browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        seen.append(browser.evaluate(paper))
    assert seen == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"]
