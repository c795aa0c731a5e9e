"""A TensorBoard of this machine's own, for as long as somebody looks at it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from focalbench.errors import ConfigError

_START_S = 120.0  # TensorBoard takes seconds, on a machine at work more


def free_port() -> int:
    """Returns a port of localhost that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Tells whether nobody listens on ``port`` of localhost."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just ended counts as free
        try:
            probe.bind(("localhost", port))
        except OSError:
            return False
    return True


class Server:
    """A running TensorBoard.

    Args:
        folder: what it shows.
        port: of localhost.
        options: of TensorBoard's command, beside these.
    """

    def __init__(self, folder: Path, port: int, options: tuple[str, ...] = ()) -> None:
        folder = folder.resolve()
        self.port = port
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - lives as long as the server
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder.name, "--host", "localhost"]
        # From the folder above: the page shows the path that it was given.
        self._process = subprocess.Popen(
            [*command, "--port", str(port), *options], cwd=folder.parent, stdout=self._log, stderr=self._log
        )

    def wait_until_it_answers(self) -> None:
        """Waits for the page.

        Raises:
            ConfigError: when TensorBoard ends, or does not answer for minutes.
        """
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://localhost:{self.port}/", timeout=10):
                return
            time.sleep(0.2)
        raise ConfigError(f"TensorBoard did not start: {self._last_words()}")

    def wait(self) -> None:
        """Waits until it ends, which it does not do by itself.

        Raises:
            ConfigError: when it has.
        """
        self._process.wait()
        raise ConfigError(f"TensorBoard stopped by itself: {self._last_words()}")

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"


@contextmanager
def serve(folder: Path, port: int, *options: str) -> Iterator[Server]:
    """Within the block TensorBoard shows ``folder``; ``options`` are those of its command."""
    server = Server(folder, port, options)
    try:
        yield server
    finally:
        server.close()
