"""``tensorboard``: TensorBoard over the runs, and the addresses at which they are to be read."""

from __future__ import annotations

import contextlib
import signal
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from focalbench import console
from focalbench.board.address import DEFAULT_PORT, curves_address, page_addresses
from focalbench.board.server import free_port, is_free, serve
from focalbench.errors import ConfigError, DataError, FocalbenchError


def tensorboard(
    runs: Annotated[
        Path, typer.Argument(metavar="RUNS", help="Folder of all runs, or of one (runs/NAME).", show_default=True)
    ] = Path("runs"),
    port: Annotated[
        int | None,
        typer.Option(help=f"Default: {DEFAULT_PORT}, or a free one if that is taken.", show_default=False),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the curves in the browser.")] = False,
) -> None:
    """Start TensorBoard on this machine and print where the curves, the verdict and all trials are."""
    if not runs.is_dir():
        raise DataError(f"{runs}: no such folder; `focalbench run CONFIG` writes runs/NAME; or name another folder")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as ^C: TensorBoard must not be left behind
    chosen = _port(port)
    _bring_up_to_date(runs)
    with serve(runs, chosen) as server:
        server.wait_until_it_answers()
        console.print_text("\n".join(f"{name + ':':<12}{url}" for name, url in page_addresses(chosen).items()))
        console.info("TensorBoard runs until ^C")
        if open_browser:
            webbrowser.open(curves_address(chosen))
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()


def _port(wanted: int | None) -> int:
    """The port that was asked for, TensorBoard's own, or any that is free.

    Raises:
        ConfigError: when the one asked for is taken or none.
    """
    if wanted is not None:
        if not 0 < wanted < 2**16 or not is_free(wanted):
            raise ConfigError(f"--port {wanted}: taken or not available; leave it out to use a free one")
        return wanted
    return DEFAULT_PORT if is_free(DEFAULT_PORT) else free_port()


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
