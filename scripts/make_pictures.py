"""Pictures of a run for the docs: TensorBoard's HPARAMS and SCALARS pages and the report, as a browser shows them.

    python scripts/make_pictures.py runs/quickstart [-o docs/images] [--only NAME]... [--section verdict --height 420]
    python scripts/make_pictures.py runs/ONE runs/OTHER/ce-s* --only report [--baseline ARM] [--name one]

Writes hparams.png, scalars.png and report.png into the folder of ``-o``. TensorBoard is started on the loopback address
for as long as it is looked at, and shows the first folder; the report takes all. Chromium takes the pictures, without a
window.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from urllib.request import urlopen

from PIL import Image, ImageChops

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PICTURES = ("hparams", "scalars", "report")
WIDTH = 1500
_MARGIN = 16
_SCALARS = "#scalars&_smoothingWeight=0&tagFilter=AP"  # unsmoothed; mAP and the AP of each class
_PAGE_MS = 15_000  # of the page's own clock, which runs ahead while it waits for nothing
_LIMIT_S = 120.0


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


@contextmanager
def tensorboard(folder: Path, num_trials: int) -> Iterator[str]:
    """Within the block TensorBoard shows ``folder``, all of it read; yields its address."""
    # From the folder above it: the page shows the path that it was given.
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder.name, "--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        server = subprocess.Popen(command, cwd=folder.parent, stdout=log, stderr=log)
        try:
            yield _address_when_read(server, log.fileno(), num_trials)
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _address_when_read(server: subprocess.Popen[bytes], log: int, num_trials: int) -> str:
    """Waits until the server knows all trials and finds nothing new in them."""
    deadline, known = time.monotonic() + _LIMIT_S, None
    while time.monotonic() < deadline:
        time.sleep(2)
        text = os.pread(log, 1 << 16, 0).decode(errors="replace")
        if server.poll() is not None:
            sys.exit(f"TensorBoard ended with {server.returncode}: {text.strip()[-500:]}")
        found = re.search(r"http://127\.0\.0\.1:\d+/", text)
        if found is None:
            continue
        with urlopen(f"{found[0]}data/plugin/scalars/tags", timeout=30) as answer:
            tags = json.load(answer)
        if len(tags) >= num_trials and tags == known:
            return found[0]
        known = tags
    sys.exit(f"TensorBoard has not read all trials within {_LIMIT_S:.0f} s")


def take(browser: str, url: str, path: Path, width: int, height: int) -> None:
    """Writes what ``browser`` shows at ``url`` to ``path``, in 256 colours."""
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="focalbench-browser-") as profile:
        flags = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}"]
        flags += [f"--virtual-time-budget={_PAGE_MS}", f"--window-size={width},{height}", f"--screenshot={path}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium has no sandbox for root, and does not start with one
        done = subprocess.run([browser, *flags, url], capture_output=True, text=True, timeout=_LIMIT_S)
    if not path.exists():
        sys.exit(f"{browser} made no picture of {url}: {done.stderr.strip()[-500:]}")
    with Image.open(path) as picture:
        _trimmed(picture.convert("RGB")).quantize(256).save(path, optimize=True)
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


def main() -> None:
    """Takes the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="a run's folder, such as runs/quickstart, or several")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/images"), help="[default: docs/images]")
    parser.add_argument("--only", action="append", choices=PICTURES, help="a picture; may be given again")
    parser.add_argument("--section", metavar="ID", help="part of the report to show [default: its top]")
    parser.add_argument("--baseline", metavar="ARM", help="of the report [default: plain cross entropy]")
    parser.add_argument("--name", default="report", help="of the report's picture, without .png [default: report]")
    parser.add_argument("--height", type=int, default=1100, help="of the report's picture [default: 1100]")
    parser.add_argument("--browser", metavar="PATH", help=f"[default: the first there is of {', '.join(BROWSERS)}]")
    options = parser.parse_args()
    browser, wanted = find_browser(options.browser), options.only or PICTURES
    run, out = options.paths[0].resolve(), options.out.absolute()
    num_trials = len({path.parent for path in run.rglob("events.out.tfevents.*")})
    if not num_trials:
        sys.exit(f"{options.paths[0]}: no trial's TensorBoard files below it")
    out.mkdir(parents=True, exist_ok=True)
    if {"hparams", "scalars"} & set(wanted):
        with tensorboard(run, num_trials) as address:
            if "hparams" in wanted:
                height = min(max(420, 150 + 36 * num_trials), 1200)
                take(browser, f"{address}?darkMode=false#hparams", out / "hparams.png", WIDTH, height)
            if "scalars" in wanted:
                take(browser, f"{address}?darkMode=false{_SCALARS}", out / "scalars.png", WIDTH, 740)
    if "report" in wanted:
        with tempfile.TemporaryDirectory(prefix="focalbench-report-") as folder:
            page = Path(folder) / "report.html"
            write_report(options.paths, page, options.section, options.baseline)
            take(browser, page.as_uri(), out / f"{options.name}.png", 1200, options.height)


if __name__ == "__main__":
    main()
