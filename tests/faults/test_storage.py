"""Disks that are full or closed to writing: a word that names the path, and nothing lost."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from injection.equality import differences

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system in memory; a second call with the same name changes its options."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root, to mount a file system")
    mounted: list[Path] = []

    def mount(name: str, options: str) -> Path:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        again = "remount," if path in mounted else ""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", path], capture_output=True)
        if done.returncode:
            pytest.skip(f"may not mount a file system: {done.stderr.decode().strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in set(mounted):
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_on_a_full_disk_the_older_checkpoint_stays_and_with_space_the_run_goes_on(
    bench, mount: Mount, share: float
) -> None:
    size = sum(path.stat().st_size for path in bench.whole.rglob("*"))
    folder = mount("small disk", f"size={int(share * size)}") / "t"
    full = bench.run(folder)
    assert full.code == 2
    assert str(folder) in full.text
    assert "No space left on device" in full.text
    assert "Traceback" not in full.text
    status = folder / "status.json"
    assert not status.exists() or json.loads(status.read_text())["state"] in ("interrupted", "running")
    mount("small disk", "size=100m")
    assert bench.run(folder).code == 0
    assert differences(folder, bench.whole) == []


def test_a_read_only_folder_is_named(bench, mount: Mount) -> None:
    mount("frozen", "size=1m")
    folder = mount("frozen", "ro")
    done = bench.sandbox.run("run", bench.config, "--out", folder / "out")
    assert done.code == 2
    assert f"{folder / 'out'}: cannot write: Read-only file system" in done.stderr
    assert not done.traceback


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(bench, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = bench.sandbox.run("run", bench.config, "--out", tmp_path / "out")
    tmp_path.chmod(0o700)
    assert done.code == 2
    assert f"{tmp_path / 'out'}: cannot write: Permission denied" in done.stderr
    assert not done.traceback


def test_a_trial_that_another_process_owns_is_refused(bench, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with FileLock(tmp_path / "t" / ".lock"):
        refused = bench.run(tmp_path / "t")
    assert refused.code == 2
    assert "another process is training this trial" in refused.text
    assert [path.name for path in (tmp_path / "t").iterdir()] == [".lock"]
