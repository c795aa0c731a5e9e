"""TensorBoard's HTTP interface: what its pages are made of, and so the oracle of what they show."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from focalbench.board.server import free_port, serve

_ALL = ("STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING")


class Client:
    """A TensorBoard on a port of this machine; an answer with NaN, which is no valid JSON, fails the test."""

    def __init__(self, port: int) -> None:
        self.base = f"http://localhost:{port}/data/"

    def get(self, path: str, **query: Any) -> Any:
        url = f"{self.base}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as response:
            return json.load(response, parse_constant=pytest.fail)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response, parse_constant=pytest.fail)

    def sessions(self, statuses: tuple[str, ...] = _ALL) -> list[dict[str, Any]]:
        """The rows of the HPARAMS page."""
        body = {"allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 1000}
        return self.post("plugin/hparams/session_groups", body)["sessionGroups"]

    def experiment(self) -> dict[str, Any]:
        """The columns of the HPARAMS page and its metrics."""
        return self.post("plugin/hparams/experiment", {})

    def tags(self) -> dict[str, dict[str, Any]]:
        """The scalars of each run."""
        return self.get("plugin/scalars/tags")

    def curve(self, run: str, tag: str) -> dict[int, float]:
        """Step -> value; a step that comes twice fails the test."""
        points = self.get("plugin/scalars/scalars", run=run, tag=tag)
        assert len({step for _, step, _ in points}) == len(points), f"{run} {tag}: a step comes twice"
        return {step: value for _, step, value in points}

    def charts(self) -> dict[str, list[str]]:
        """Titles of the CUSTOM SCALARS page's charts by their group."""
        layout = self.get("plugin/custom_scalars/layout")
        return {group["title"]: [chart["title"] for chart in group.get("chart", [])] for group in layout["category"]}

    def texts(self, run: str, tag: str) -> list[str]:
        """What the TEXT page shows, as HTML."""
        return [entry["text"] for entry in self.get("plugin/text/text", run=run, tag=tag)]

    def wait_for(self, ready: Callable[[Client], bool], limit_s: float = 60.0) -> None:
        """Waits until TensorBoard has read what ``ready`` looks for."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if ready(self):
                    return
            time.sleep(0.2)
        pytest.fail(f"TensorBoard did not show it within {limit_s:g} s")


@contextlib.contextmanager
def tensorboard(logdir: Path, *, load_fast: str = "auto") -> Iterator[Client]:
    """A TensorBoard on a free port: ``load_fast`` is auto or false, two loaders that read resumes apart."""
    with serve(logdir, port := free_port(), f"--load_fast={load_fast}", "--reload_interval", "1"):
        yield Client(port)
