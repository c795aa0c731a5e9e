"""The commands, one module a group. Nothing here imports torch before a command's body runs: ``--help`` stays quick."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from focalbench import console
from focalbench.cli import (
    bench,
    clean,
    compare,
    config,
    data,
    docs,
    doctor,
    evaluate,
    init,
    plugin,
    report,
    run,
    status,
    tensorboard,
)
from focalbench.cli.command import App
from focalbench.device_faults import explained
from focalbench.errors import FocalbenchError
from focalbench.runtime import prepare_process
from focalbench.version import __version__

MAX_MESSAGE_LINES = 20
_NO_MEMORY = "close what else is using it (nvidia-smi shows what is on a GPU), or use --device cpu or another GPU"
_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

app = App(
    name="focalbench",
    help="Does your loss help your detector on your data? Trains the arms side by side and says which differences "
    "are real.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    *(run.run, status.status, status.ls, tensorboard.tensorboard, compare.compare, report.report),
    *(evaluate.evaluate, evaluate.predict, evaluate.analyze, evaluate.export, clean.clean),
    *(init.init, config.validate, config.show, config.schema, doctor.doctor, docs.docs),
)
for _command in _COMMANDS:
    app.command()(_command)
for _group in (data.data_app, plugin.plugin_app, bench.bench_app):
    app.add_typer(_group)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"focalbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command ``focalbench``: says what is wrong in a few lines, and exits with the code that fits.

    Exit codes: 0 done, 1 a fault in focalbench, 2 the user's input, 3 some trials failed, 130 / 143 stopped by
    a signal.
    """
    _mend_streams()
    try:
        prepare_process()
        app()
    except FocalbenchError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS:
            _crash(error)
        _fail(f"{error.filename or 'standard output, or a file'}: {error.strerror}", 2)
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        console.drop_output()  # `--help | head`: its reader wants no more, which is no fault
        sys.exit(0)
    except Exception as error:
        from focalbench.plugins.loading import plugin_fault

        fault = explained(error, "the GPU", lambda: _NO_MEMORY) or plugin_fault(error)
        if fault is not None:
            _fail(str(fault), fault.exit_code)
        _crash(error)


def _mend_streams() -> None:
    """Give a closed stdin, stdout or stderr a sink, and print what the terminal's encoding lacks as ``?``."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            sink = open(os.devnull, mode, encoding="utf-8", errors="replace")  # noqa: SIM115 - lives as long as the process
            setattr(sys, name, sink)
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _fail(message: str, exit_code: int) -> None:
    """Say what is wrong in at most twenty lines, and end."""
    if _debugging():
        traceback.print_exc()
    lines = message.splitlines() or ["unknown"]
    if len(lines) > MAX_MESSAGE_LINES:
        lines = [*lines[: MAX_MESSAGE_LINES - 1], f"... and {len(lines) - MAX_MESSAGE_LINES + 1} more lines"]
    console.info("\n".join(lines))  # no label: editors and scripts read file:line:column from its start
    sys.exit(exit_code)


def _crash(error: Exception) -> None:
    """Report a fault of focalbench itself: short, with the place, and how to see all of it."""
    if _debugging():
        traceback.print_exc()
    places = traceback.extract_tb(error.__traceback__)
    place = f" at {places[-1].filename}:{places[-1].lineno}" if places else ""
    console.error(f"a bug in focalbench itself: {type(error).__name__}: {str(error)[:500]}{place}")
    if not _debugging():
        console.info("FOCALBENCH_DEBUG=1 shows the traceback; please report it with the command you ran.")
    sys.exit(1)


def _debugging() -> bool:
    return os.environ.get("FOCALBENCH_DEBUG", "") not in {"", "0"}
