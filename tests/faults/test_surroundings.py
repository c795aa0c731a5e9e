"""No home, a locale without letters, no terminal, names with spaces, readers that go away, early and odd signals."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from injection.bad_data import CASES
from injection.commands import Sandbox, wait_for_handlers
from injection.voc_set import VocSet

pytestmark = pytest.mark.slow

_ODD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": ""}


def test_a_run_in_odd_surroundings_is_like_any_other(bench, tmp_path: Path) -> None:
    config = tmp_path / "größe 1.yaml"
    config.write_text(bench.config.read_text().replace("name: tiny\n", ""), encoding="utf-8")
    out = tmp_path / "läufe mit leerzeichen"
    odd = {key: value for key, value in bench.sandbox.environment(**_ODD).items() if key not in ("HOME", "LANG")}
    done = bench.sandbox.run("run", config, "--out", out, environment={**odd, "FOCALBENCH_CACHE": str(tmp_path / "c")})
    assert done.code == 0, done.stderr
    assert not done.traceback
    (result,) = out.glob("*/result.json")
    assert json.loads(result.read_text())["step"] == 6

    def compare(redirection: str) -> list[str]:
        command = f"{shlex.quote(sys.executable)} -m focalbench compare {shlex.quote(str(out))} {redirection}"
        ended = subprocess.run(["bash", "-c", command], env=odd, capture_output=True, text=True, check=True, timeout=60)
        assert "Traceback" not in ended.stderr
        return ended.stdout.splitlines()

    assert compare('| head -1; echo "${PIPESTATUS[0]}"') == ["val/mAP in points", "0"]
    assert compare('--help | head -1; echo "${PIPESTATUS[0]}"')[-1] == "0"
    assert compare('>&- 2>&-; echo "$?"') == ["0"]
    if os.path.exists("/dev/full"):
        assert compare('> /dev/full; echo "$?"') == ["2"]


def _wait_for(path: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(path.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in two minutes"
        time.sleep(0.05)


def test_the_signal_of_a_batch_system_counts_as_sigterm(bench, tmp_path: Path) -> None:
    process = bench.sandbox.start("run", bench.config, "-s", "optim.steps=100000", "--out", tmp_path / "o")
    _wait_for(tmp_path / "o", "*/checkpoints/*.pt")
    process.send_signal(signal.SIGUSR1)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"resume with: focalbench run {bench.config} -s optim.steps=100000 --out {tmp_path / 'o'}" in stderr
    (status,) = (tmp_path / "o").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_data_are_checked_is_heeded(bench, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    voc, sandbox = VocSet(tmp_path / "data"), Sandbox(tmp_path / "sandbox")
    next(case for case in CASES if case.name == "six images of 64 million pixels").plant(voc)
    process = sandbox.start("run", bench.config, "-s", f"data.root={voc.root}", "--out", tmp_path / "o")
    assert wait_for_handlers(process.pid, limit_s=120)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"stopped by {sent.name} while reading the images; resume with: focalbench run" in stderr
    assert not (tmp_path / "o").exists()
