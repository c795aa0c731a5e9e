"""Loaded by Python at its start where this folder is on PYTHONPATH: notes every path that the process opens for
writing, makes, links or renames, in the file that FAULTS_WRITES names.
"""

import os
import sys

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def _install(log: int) -> None:
    def note(event: str, arguments: tuple) -> None:
        if event == "open":
            paths = arguments[:1] if isinstance(arguments[2], int) and arguments[2] & _WRITING else ()
        elif event == "os.mkdir":
            paths = arguments[:1]
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = arguments[1:2]
        else:
            return
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                whole = os.path.abspath(os.fsdecode(path))
                os.write(log, whole.encode("utf-8", "surrogateescape") + b"\n")

    sys.addaudithook(note)


if os.environ.get("FAULTS_WRITES"):
    _install(os.open(os.environ["FAULTS_WRITES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
