"""``tensorboard``: TensorBoard over the runs, and the addresses at which they are to be read."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from focalbench import console
from focalbench.board.address import DEFAULT_PORT, curves_address, page_addresses
from focalbench.errors import ConfigError, DataError, FocalbenchError

_START_S = 120.0  # TensorBoard takes seconds, on a machine at work more


def tensorboard(
    runs: Annotated[
        Path, typer.Argument(metavar="RUNS", help="Folder of all runs, or of one (runs/NAME).", show_default=True)
    ] = Path("runs"),
    port: Annotated[
        int | None,
        typer.Option(help=f"Default: {DEFAULT_PORT}, or a free one where that is taken.", show_default=False),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the curves in the browser.")] = False,
) -> None:
    """Start TensorBoard on this machine and print where the curves, the verdict and all trials are."""
    if not runs.is_dir():
        raise DataError(f"{runs}: no such folder; `focalbench run CONFIG` writes runs/NAME, or name another one")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as ^C: TensorBoard must not be left behind
    chosen = _port(port)
    _bring_up_to_date(runs)
    with tempfile.TemporaryFile("w+b") as log, _server(runs, chosen, log) as server:
        _wait_until_it_answers(server, chosen, log)
        console.print_text("\n".join(f"{name + ':':<12}{url}" for name, url in page_addresses(chosen).items()))
        console.info("TensorBoard runs until ^C")
        if open_browser:
            webbrowser.open(curves_address(chosen))
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
            raise ConfigError(f"TensorBoard ended by itself: {_last_words(log)}")


def _port(wanted: int | None) -> int:
    """The port that was asked for, TensorBoard's own, or any that is free.

    Raises:
        ConfigError: when the one asked for is taken or none.
    """
    if wanted is not None:
        if not 0 < wanted < 2**16 or not _is_free(wanted):
            raise ConfigError(f"--port {wanted}: taken, or not to be had; leave it out and a free one is found")
        return wanted
    if _is_free(DEFAULT_PORT):
        return DEFAULT_PORT
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just ended counts as free
        try:
            probe.bind(("localhost", port))
        except OSError:
            return False
    return True


def _bring_up_to_date(runs: Path) -> None:
    """Writes arms and verdict of each sweep below ``runs``: its process may have been killed, or an older version."""
    from focalbench.board.board import Board
    from focalbench.records.reader import read_trials

    try:
        folders = dict.fromkeys(trial.folder.parent for trial in read_trials([runs]))
    except DataError as fault:
        console.warn(str(fault))
        return
    for folder in folders:
        try:
            Board(folder).update()
        except (OSError, FocalbenchError) as fault:
            console.warn(f"{folder}: shown without its arms and verdict: {fault}")


@contextlib.contextmanager
def _server(runs: Path, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--host", "localhost"]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    """Waits for the page.

    Raises:
        ConfigError: when TensorBoard ends, or does not answer for minutes.
    """
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://localhost:{port}/", timeout=10):
            return
        time.sleep(0.2)
    raise ConfigError(f"TensorBoard does not start: {_last_words(log)}")


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
