"""Pictures of a run for the docs: TensorBoard's pages and the report, as a browser shows them.

    python scripts/make_pictures.py runs/quickstart [-o docs/images] [--only NAME]... [--prefix quickstart_]
    python scripts/make_pictures.py runs/ONE runs/OTHER/ce-s* --only report [--baseline ARM] [--section verdict]

Writes a PNG for each of TensorBoard's pages, at the addresses that `focalbench tensorboard` prints, and one of the
report into the folder of ``-o``. TensorBoard shows the first folder; the report takes all. Chromium takes the pictures,
without a window, driven over its DevTools protocol.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from picture_record import record
from PIL import Image, ImageChops

from focalbench.board.address import page_addresses
from focalbench.board.server import free_port, serve

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MARGIN = 16
_LIMIT_S = 120.0
_SETTLE_S = 3.0  # a page that has not changed for so long is finished
_CLICK = """
(function click(root, text) {
  for (const node of root.querySelectorAll("*")) {
    if (node.shadowRoot && click(node.shadowRoot, text)) return true;
    if (node.children.length === 0 && node.textContent.trim().toLowerCase() === text) { node.click(); return true; }
  }
  return false;
})(document, %s)
"""


@dataclass(frozen=True)
class Page:
    """One picture of TensorBoard.

    Attributes:
        address: what follows the server's; or a name among ``page_addresses``.
        width, height: of the window.
        click: text of what is clicked first, in lower case.
        shows: whose code it shows, a name among ``picture_record.CODE``.
    """

    address: str
    width: int = 1400
    height: int = 900
    click: str = ""
    shows: str = "board"


PAGES = {
    "curves": Page("curves"),
    "margins": Page("margins"),
    "verdict": Page("verdict", 1500, 700),
    "hparams": Page("all trials", 1600, 1000),
    "parallel": Page("all trials", 1400, 760, "parallel coordinates view"),
    "precision_recall": Page("#pr_curves&regexInput={first_arm}", 1400, 800),
    "images": Page("#images&regexInput={first_trial}", 1400, 1980, shows="board images"),
}
PICTURES = (*PAGES, "report")


def find_browser(wanted: str | None) -> str:
    """Path of a Chromium.

    Raises:
        SystemExit: where there is none.
    """
    for name in (wanted,) if wanted else BROWSERS:
        if found := shutil.which(name):
            return found
    sys.exit(
        f"no {wanted or 'Chromium'} found: install Chromium (Debian, Ubuntu: apt install chromium) "
        "or pass --browser with its path"
    )


def wait_until_read(port: int, num_runs: int) -> None:
    """Waits until the TensorBoard on ``port`` knows all runs and finds nothing new in them."""
    deadline, known = time.monotonic() + _LIMIT_S, None
    while time.monotonic() < deadline:
        with urlopen(f"http://localhost:{port}/data/plugin/scalars/tags", timeout=30) as answer:
            tags = json.load(answer)
        if len(tags) >= num_runs and tags == known:
            return
        known = tags
        time.sleep(2)
    sys.exit(f"TensorBoard has not read all runs within {_LIMIT_S:.0f} s")


class Browser:
    """A Chromium without a window, spoken to over a pair of pipes (DevTools protocol)."""

    def __init__(self, path: str, profile: str) -> None:
        flags = ["--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        flags += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
        flags += [f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium has no sandbox for root, and does not start with one
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()

        def hand_over() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(to_read, 100), os.dup2(to_write, 101)
            os.dup2(100, 3), os.dup2(101, 4)

        command = [path, *flags, "about:blank"]
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(command, preexec_fn=hand_over, close_fds=False, stdout=silent, stderr=silent)
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._number, self._session = b"", 0, ""
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(info["targetId"] for info in targets if info["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def picture(self, url: str, width: int, height: int, click: str = "") -> Image.Image:
        """Returns what a window of this size shows at ``url``, once it has come to rest."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Page.navigate", url="about:blank")  # a new # alone would not load the page anew
        self._call("Page.navigate", url=url)
        picture = self._at_rest()
        if click:
            if not self._call("Runtime.evaluate", expression=_CLICK % json.dumps(click))["result"].get("value"):
                sys.exit(f"{url}: nothing says {click!r}")
            picture = self._at_rest()
        return picture

    def _at_rest(self) -> Image.Image:
        deadline, since, last = time.monotonic() + _LIMIT_S, time.monotonic(), b""
        while time.monotonic() < deadline:
            time.sleep(0.5)
            shot = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
            if shot != last:
                since, last = time.monotonic(), shot
            elif time.monotonic() - since > _SETTLE_S:
                break
        return Image.open(io.BytesIO(last)).convert("RGB")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                part = os.read(self._in, 1 << 20)
                if not part:
                    sys.exit("the browser ended")
                self._buffer += part
            line, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}")
                return answer["result"]


@contextmanager
def open_browser(path: str) -> Iterator[Browser]:
    """Within the block there is a browser with a new, empty profile."""
    with tempfile.TemporaryDirectory(prefix="focalbench-browser-", ignore_cleanup_errors=True) as profile:
        browser = Browser(path, profile)
        try:
            yield browser
        finally:
            browser.close()


def save(picture: Image.Image, path: Path, shows: str) -> None:
    """Writes ``picture`` to ``path``, in 256 colours; ``shows`` is one of ``picture_record.CODE``."""
    _trimmed(picture).quantize(256).save(path, optimize=True)
    record(path, shows)
    print(path)


def _trimmed(picture: Image.Image) -> Image.Image:
    """Without the white around what it shows, but for a margin."""
    blank = Image.new("RGB", picture.size, "white")
    left, top, right, bottom = ImageChops.difference(picture, blank).getbbox() or (0, 0, *picture.size)
    box = max(0, left - _MARGIN), max(0, top - _MARGIN), right + _MARGIN, bottom + _MARGIN
    return picture.crop((*box[:2], min(box[2], picture.width), min(box[3], picture.height)))


def write_report(paths: list[Path], page: Path, section: str | None, baseline: str | None) -> None:
    """The report of ``paths``, of which only ``section`` is shown, where one is named."""
    made = [sys.executable, "-m", "focalbench", "report", *map(str, paths), "-o", str(page)]
    made += ["--baseline", baseline] if baseline is not None else []
    code = subprocess.run(made, stdout=subprocess.DEVNULL).returncode
    if code:
        sys.exit(code)
    if section is None:
        return
    text = page.read_text(encoding="utf-8")
    sections = re.findall(r'<section aria-labelledby="([^"]+)"', text)
    if section not in sections:
        sys.exit(f"--section {section}: the report has {', '.join(sections)}")
    hidden = f'header, nav, footer, section:not([aria-labelledby="{section}"]) {{ display: none }}'
    page.write_text(text.replace("</style>", f"{hidden}\n</style>", 1), encoding="utf-8")


def page_url(page: Page, port: int, folder: Path, wanted: str) -> str:
    """Where TensorBoard on ``port`` shows ``page`` of the run in ``folder``; ``wanted`` begins a trial's name."""
    known = page_addresses(port)
    if page.address in known:
        return known[page.address]
    names = sorted(path.parent.name for path in folder.glob("*/events.out.tfevents.*"))
    trials = [name for name in dict.fromkeys(names) if re.search(r"-s\d+-\w{8}$", name) and name.startswith(wanted)]
    if not trials:
        sys.exit(f"--trial {wanted}: no such trial in {folder}")
    seed = re.search(r"-s\d+-", trials[0])
    assert seed is not None
    place = page.address.format(first_trial=f"^{re.escape(trials[0])}%24", first_arm=re.escape(seed[0]))
    return f"http://localhost:{port}/{place}"


def main() -> None:
    """Takes the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="a run's folder, such as runs/quickstart, or several")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/images"), help="[default: docs/images]")
    parser.add_argument("--only", action="append", choices=PICTURES, help="a picture; may be given again")
    parser.add_argument("--trial", default="", help="whose images are shown [default: the first by name]")
    parser.add_argument("--prefix", default="", help="of the pictures' names")
    parser.add_argument("--section", metavar="ID", help="part of the report to show [default: its top]")
    parser.add_argument("--baseline", metavar="ARM", help="of the report [default: plain cross entropy]")
    parser.add_argument("--height", type=int, help="of the pictures [default: what suits each]")
    parser.add_argument("--browser", metavar="PATH", help=f"[default: the first there is of {', '.join(BROWSERS)}]")
    options = parser.parse_args()
    path, wanted = find_browser(options.browser), options.only or PICTURES
    run, out = options.paths[0].resolve(), options.out.absolute()
    num_runs = len({path.parent for path in run.rglob("events.out.tfevents.*")} - {run / "verdict"})
    if not num_runs:
        sys.exit(f"{options.paths[0]}: no trial's TensorBoard files below it")
    out.mkdir(parents=True, exist_ok=True)
    with open_browser(path) as browser:
        pages = {name: page for name, page in PAGES.items() if name in wanted}
        if pages:
            with serve(run, port := free_port()) as server:
                server.wait_until_it_answers()
                wait_until_read(port, num_runs)
                for name, page in pages.items():
                    height = options.height or page.height
                    picture = browser.picture(page_url(page, port, run, options.trial), page.width, height, page.click)
                    save(picture, out / f"{options.prefix}{name}.png", page.shows)
        if "report" in wanted:
            with tempfile.TemporaryDirectory(prefix="focalbench-report-") as folder:
                page_file = Path(folder) / "report.html"
                write_report(options.paths, page_file, options.section, options.baseline)
                picture = browser.picture(page_file.as_uri(), 1200, options.height or 1100)
                save(picture, out / f"{options.prefix}report.png", "report")


if __name__ == "__main__":
    main()
