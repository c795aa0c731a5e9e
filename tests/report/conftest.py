"""A sweep's folder without any training, and a browser that is asked over a pipe."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

CLASSES = ["circle", "cross", "square", "triangle"]
CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="session")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and eight test images in VOC's layout."""
    from focalbench.data.synthetic import synthesize

    return synthesize(tmp_path_factory.mktemp("voc"), num_train=6, num_val=8, image_size=64)


@pytest.fixture(scope="session")
def truth(voc_root: Path) -> dict[str, Any]:
    """Ground truth of the test split as detections.npz keeps it."""
    from focalbench.data.scanning import list_samples, scan_sample

    samples = list_samples(voc_root, ["2007/val"]).samples
    rows = [(n, item) for n, sample in enumerate(samples) for item in scan_sample(sample)[0].objects]
    return {
        "gt_image": np.array([number for number, _ in rows]),
        "gt_label": np.array([CLASSES.index(item.name) for _, item in rows]),
        "gt_box": np.array([item.box for _, item in rows], np.float32),
        "gt_difficult": np.zeros(len(rows), bool),
        "image_ids": np.array([sample.image_id for sample in samples]),
    }


WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path, new_writer: Callable[[Path], WriteRun]) -> WriteRun:
    """Writes finished trials into the test's own folder; see ``new_writer``."""
    return new_writer(tmp_path)


@pytest.fixture(scope="session")
def new_writer(voc_root: Path, truth: dict[str, Any]) -> Callable[[Path], WriteRun]:
    """A writer of finished trials below a folder: arm -> (loss section, mAP by seed); keywords hold for all trials."""
    return lambda folder: _writer(folder, voc_root, truth)


def _writer(base: Path, voc_root: Path, truth: dict[str, Any]) -> WriteRun:

    def write(
        arms: dict[str, tuple[dict[str, Any], list[float | None]]],
        *,
        name: str = "gamma-alpha",
        classes: list[str] = CLASSES,
        root: Path | None = voc_root,
        detections: bool = True,
    ) -> Path:
        run = base / "runs" / "test"
        for arm_number, (arm, (loss, values)) in enumerate(arms.items()):
            for seed, value in enumerate(values):
                folder = run / f"{arm_number}-s{seed}-{arm_number:04d}{seed:04d}"
                folder.mkdir(parents=True)
                _write_documents(folder, arm, seed, value, loss, name, classes, root)
                if detections:
                    np.savez(folder / "detections.npz", **_detections(truth, classes, seed, value or 0.5))
        return run

    return write


def _write_documents(
    folder: Path,
    arm: str,
    seed: int,
    value: float | None,
    loss: dict[str, Any],
    name: str,
    classes: list[str],
    root: Path | None,
) -> None:
    config = {
        "name": name,
        "seed": seed,
        "data": {"name": "voc", "root": str(root) if root else None, "train": ["2007/train"], "val": ["2007/val"]},
        "model": {"name": "retinanet", "backbone": "tiny"},
        "loss": loss,
        "optim": {"name": "sgd", "lr": 0.01, "epochs": 2, "batch_size": 4},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = {
        "trial": folder.name,
        "arm": arm,
        "seed": seed,
        "config_hash": folder.name[-8:],
        "val/mAP": value,
        "AP": {label: None if value is None else value * (0.5 + 0.1 * k) for k, label in enumerate(classes)},
        "protocol": "voc07",
        "split": ["2007/val"],
        "classes": classes,
        "steps": 50,
        "train_images": 6,
        "val_images": 8,
        "data_fingerprint": ["aa", "bb"],
        "wall_s": 100.0 + seed,
        "environment": {"torch": "2.15.0", "cpu": "AVX512"},
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "status.json").write_text(json.dumps({"state": "done", "arm": arm, "seed": seed, "time": 1.79e9}))
    lines: list[dict[str, Any]] = [{"step": step, "train/loss": 3.0 / step} for step in (10, 20, 30, 40, 50)]
    lines += [{"step": step, "val/mAP": None if value is None else value * step / 50} for step in (25, 50)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _detections(truth: dict[str, Any], classes: list[str], seed: int, quality: float) -> dict[str, Any]:
    """The share ``quality`` of the objects found, and in every image one box where nothing is."""
    rng = np.random.default_rng(seed)
    hit = rng.random(len(truth["gt_image"])) < quality
    images = np.arange(len(truth["image_ids"]))
    nowhere = np.tile(np.array([[1, 1, 5, 5]], np.float32), (len(images), 1))
    return truth | {
        "image": np.concatenate([truth["gt_image"][hit], images]),
        "label": np.concatenate([truth["gt_label"][hit], np.zeros(len(images), int)]),
        "score": rng.uniform(0.2, 0.9, hit.sum() + len(images)).astype(np.float32),
        "box": np.concatenate([truth["gt_box"][hit], nowhere]),
        "classes": np.array(classes),
    }


class Browser:
    """Headless Chromium with one page, spoken to over two pipes: no port, no further library."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._writer = _high_pipe()
        self._reader, from_browser = _high_pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command = [CHROMIUM, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        # Chromium reads from descriptor 3 and writes to 4.
        place = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
        place += "os.execv(sys.argv[3], sys.argv[3:])"
        wrapped = [sys.executable, "-c", place, str(to_browser), str(from_browser), *command]
        self._process = subprocess.Popen(
            wrapped, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._last_id, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Takes the first page, and listens to all that it says and asks for."""
        target = next(t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command of the DevTools protocol; events that come meanwhile are kept."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, *, width: int) -> None:
        """Loads a file at ``width`` CSS pixels and waits until it and its pictures are there."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        until = time.monotonic() + 60
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < until, "the page did not load in 60 s"
            self.evaluate("1")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; the page's content policy does not bind it."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def close(self) -> None:
        """Ends the browser and everything that it started."""
        self._session = ""
        try:
            self.ask("Browser.close")
            self._process.wait(20)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            pass  # ended already, or does not want to
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._writer)
            os.close(self._reader)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._reader], [], [], 60)[0], "the browser said nothing for 60 s"
            chunk = os.read(self._reader, 1 << 16)
            assert chunk, "the browser ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"{CHROMIUM} is not installed (Debian's package chromium)")
    found = Browser(tmp_path_factory.mktemp("chromium"))
    try:
        found.attach()
        yield found
    finally:
        found.close()


def _high_pipe() -> tuple[int, int]:
    """A pipe whose descriptors are not among those that a child is given by number."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
