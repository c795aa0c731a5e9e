"""docs/tutorial.md as a reader follows it: every shell block, in order, in an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

_PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
_INSTALLED = (Path(sys.executable).parent / "focalbench").exists()
_COMMAND = "" if _INSTALLED else f'focalbench() {{ {shlex.quote(sys.executable)} -m focalbench "$@"; }}\n'


def test_the_blocks_run_in_order_and_leave_what_the_page_says(tmp_path: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    script = "set -euo pipefail\n" + _COMMAND + "\n".join(blocks)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no errors; 4 classes" in done.stdout
    assert "one seed: no claim" in done.stdout
    assert "not enough seeds" in done.stdout
    assert "4 of 4 done" in done.stderr
    started = [line for line in done.stderr.splitlines() if line.endswith(": started")]
    assert len(started) == 4  # the second call trained the second seed alone

    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/shapes/*/result.json")]
    assert {(result["arm"], result["seed"]) for result in results} == {
        (arm, seed) for arm in ("ce", "focal") for seed in (0, 1)
    }
    assert (tmp_path / "arms.csv").read_text().count("\n") == 3
    assert (tmp_path / "report.html").stat().st_size > 10_000
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 4
    with Image.open(pictures[0]) as picture:
        assert picture.width > 100
