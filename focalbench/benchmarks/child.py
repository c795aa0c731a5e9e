"""``python -m focalbench.benchmarks.child PID MODULE ...`` runs a module as ``python -m`` does, but not beyond the
process PID, which starts it.

Linux sends it SIGTERM when its parent dies, however that ends. Other systems have no such signal.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Runs the module named in the arguments as the main one."""
    parent, sys.argv = int(sys.argv[1]), sys.argv[2:]
    end_with(parent)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def end_with(parent: int) -> None:
    """Lets this process get SIGTERM when the one that started it is gone; at once where it is by now."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
