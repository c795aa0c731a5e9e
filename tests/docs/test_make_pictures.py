"""scripts/make_pictures.py says what it lacks; what it draws is looked at by eye."""

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "scripts" / "make_pictures.py"


@pytest.mark.parametrize(
    ("browser", "word"), [("/nowhere/chromium", "install Chromium"), (sys.executable, "no trial's TensorBoard files")]
)
def test_what_is_missing_is_named(browser: str, word: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), str(tmp_path), "-o", str(tmp_path / "out"), "--browser", browser],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
