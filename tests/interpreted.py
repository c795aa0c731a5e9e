"""Runs a script of checks in Triton's interpreter, which needs no GPU and is chosen when Triton loads."""

import os
import subprocess
import sys
from pathlib import Path


def check(script: Path) -> None:
    """Runs ``script``, which prints ``equal`` when all went well, in a process of its own."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
