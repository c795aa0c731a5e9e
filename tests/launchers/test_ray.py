"""A sweep on a Ray cluster of two nodes on this machine ends right although a worker and a node are killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.errors import ConfigError
from focalbench.experiment.trial import run_trial
from focalbench.launchers.session import open_launcher
from focalbench.progress.sweep import SweepDisplay
from focalbench.records.metrics import read_metrics
from focalbench.runtime import StopFlag

Write = Callable[..., Path]
_SWEEP = "sweep: {grid: {loss.gamma: [0, 1, 2]}}"
_OWN = f"""\
plugins: ['{Path(__file__).parents[1] / "own_losses.py"}']
sweep: {{list: [{{loss: {{name: focal}}}}, {{loss: {{name: copied}}}}, {{loss: {{name: written}}}}]}}
"""

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@dataclass
class _TwoNodes:
    """A cluster of two nodes of one CPU each."""

    address: str
    second_raylet: int
    kill_second: Callable[[], None]


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[_TwoNodes]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # A dead node is noticed after 5 s instead of 20.
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 10}
    size = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "_system_config": health})
    try:
        second = cluster.add_node(**size)
        raylet = second.all_processes["raylet"][0].process.pid
        yield _TwoNodes(cluster.address, raylet, lambda: cluster.remove_node(second, allow_graceful=False))
    finally:
        folder = cluster.head_node.get_session_dir_path()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(config: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "focalbench", "run", config, "--out", out, "--launcher", "ray", "--device", "cpu"]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _training(out: Path) -> dict[str, int]:
    """The processes that train: pid by trial, of trials that have a checkpoint."""
    found = {}
    for path in out.glob("*/status.json"):
        status = json.loads(path.read_text())
        if status["state"] == "running" and status["step"] > 0 and Path(f"/proc/{status['pid']}").exists():
            found[path.parent.name] = int(status["pid"])
    return found


def _wait_for_training(out: Path, num_trials: int, driver: subprocess.Popen[str]) -> dict[str, int]:
    deadline = time.monotonic() + 120
    while len(found := _training(out)) < num_trials:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def _values(folder: Path) -> list[dict[str, float]]:
    """What a trial has logged, clocks left out."""
    return [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in read_metrics(folder)]


@pytest.mark.slow
@needs_proc
def test_a_sweep_outlives_a_worker_and_a_node(two_nodes: _TwoNodes, write_config: Write, tmp_path: Path) -> None:
    config = write_config(_OWN, text=write_config().read_text().replace("steps: 6", "steps: 30"))
    out = tmp_path / "o"
    driver = _start(config, out, "-s", f"run.ray_address={two_nodes.address}", "--json")
    try:
        ray_workers = {name: _parent(pid) for name, pid in _wait_for_training(out, 2, driver).items()}
        on_first = next(name for name, pid in ray_workers.items() if _parent(pid) != two_nodes.second_raylet)
        on_second = next(name for name, pid in ray_workers.items() if _parent(pid) == two_nodes.second_raylet)
        os.kill(ray_workers[on_first], signal.SIGKILL)
        two_nodes.kill_second()
        report, messages = driver.communicate(timeout=240)
    finally:
        driver.kill()
    assert driver.returncode == 0, messages
    assert [trial["state"] for trial in json.loads(report)["trials"]] == ["done"] * 3
    for name in (on_first, on_second):
        assert f"warning: {name}: its Ray worker on {socket.gethostname()} is gone" in messages, messages
    for folder in out.glob("*/metrics.jsonl"):  # nothing lost, nothing doubled
        steps = [line["step"] for line in read_metrics(folder.parent) if "train/loss" in line]
        assert steps == list(range(2, 31, 2))
    built_in, copied, written = load_config(config).trials
    assert _values(out / copied.name) == _values(out / built_in.name)  # the same loss, which a plugin brings
    run_trial(written, tmp_path / "alone", device="cpu", stop=StopFlag(), progress=lambda *values: None)
    assert _values(out / written.name) == _values(tmp_path / "alone")


@pytest.mark.slow
@needs_proc
def test_without_an_address_the_cluster_is_this_machine_and_ends_with_the_run(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = write_config(text=write_config().read_text().replace("steps: 6", "steps: 100000"))
    driver = _start(config, tmp_path / "o")
    try:
        ((name, worker),) = _wait_for_training(tmp_path / "o", 1, driver).items()
        raylet = _parent(_parent(worker))
        driver.send_signal(signal.SIGTERM)
        _, messages = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 143, messages
    assert json.loads((tmp_path / "o" / name / "status.json").read_text())["state"] == "interrupted"
    assert not Path(f"/proc/{worker}").exists()
    assert not Path(f"/proc/{raylet}").exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("no-such-host.invalid:6379", "no Ray cluster answers there"),
        ("127.0.0.1:99999", "no Ray cluster answers there"),
        ("ray://127.0.0.1:10001", "should be HOST:PORT"),
        ("cluster", "should be HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    write_config: Write, tmp_path: Path, address: str, reason: str
) -> None:
    config = load_config(write_config(), ["run.launcher=ray", f"run.ray_address={address}"]).config
    opened = open_launcher(config, "cpu", 1, out=tmp_path / "o", stop=StopFlag())
    with pytest.raises(ConfigError, match=rf"run\.ray_address: {address}: .*{reason}"), opened:
        pass
    assert not (tmp_path / "o").exists()


def test_without_ray_the_way_to_get_it_is_named(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import focalbench.launchers

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "focalbench.launchers.ray", raising=False)
    monkeypatch.delattr(focalbench.launchers, "ray", raising=False)
    config = load_config(write_config(), ["run.launcher=ray"]).config
    opened = open_launcher(config, "cpu", 1, out=tmp_path / "o", stop=StopFlag())
    with pytest.raises(ConfigError, match=r"Ray is not installed: pip install 'focalbench\[ray\]'"), opened:
        pass


def _nodes(*resources: dict[str, float]) -> Callable[[], list[dict[str, object]]]:
    return lambda: [{"Alive": True, "Resources": resource} for resource in resources]


def test_a_trial_takes_cores_gpus_or_a_part_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from focalbench.launchers.ray import Share, plan_share

    monkeypatch.setattr(ray, "nodes", _nodes({"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}))
    assert plan_share("cpu", 1, 1, 1) == Share(("cpu",), 0, 1)
    assert plan_share("auto", 1, 1, 1) == Share(("cuda:0",), 1, 1)
    assert plan_share("cuda", 4, 1, 1) == Share(("cuda:0",), 0.25, 1)
    assert plan_share("auto", 1, 2, 1) == Share(("cuda:0", "cuda:1"), 2, 2)
    assert plan_share("cpu", 1, 8, 1).num_cpus == 8
    assert plan_share("cpu", 1, 2, 3).num_cpus == 6
    assert plan_share("cpu", 1, 1, 100).num_cpus == 8


@pytest.mark.parametrize(
    ("device", "trials_per_device", "devices", "reason"),
    [
        ("cuda:1", 1, 1, "Ray chooses the GPU"),
        ("auto", 1, 3, r"run\.devices: 3: .* largest of the Ray cluster has 2 GPUs"),
        ("cpu", 1, 9, r"run\.devices: 9: .* largest of the Ray cluster has 8 CPUs"),
        ("auto", 2, 2, r"run\.trials_per_device: 2"),
    ],
)
def test_a_share_that_no_node_can_give_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, trials_per_device: int, devices: int, reason: str
) -> None:
    from focalbench.launchers.ray import plan_share

    monkeypatch.setattr(ray, "nodes", _nodes({"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}))
    with pytest.raises(ConfigError, match=reason):
        plan_share(device, trials_per_device, devices, 1)


def test_a_gpu_in_a_cluster_without_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from focalbench.launchers.ray import plan_share

    monkeypatch.setattr(ray, "nodes", _nodes({"CPU": 8.0}))
    with pytest.raises(ConfigError, match="no node of the Ray cluster has a GPU"):
        plan_share("cuda", 1, 1, 1)
    assert plan_share("auto", 1, 1, 1).num_gpus == 0


def test_after_a_death_without_retries_left_fail_fast_withdraws_what_no_node_has(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from focalbench.launchers.job import Job
    from focalbench.launchers.job_queue import JobQueue
    from focalbench.launchers.ray import RayRun, Share, _Placement

    killed: list[str] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    trials = load_config(write_config(_SWEEP)).trials
    jobs = [Job(trial=trial, folder=tmp_path / trial.name, devices=("cpu",), threads=1) for trial in trials]
    watcher = SweepDisplay(len(trials))
    queue = JobQueue(jobs, retries=0, watcher=watcher, on_change=lambda: None, fail_fast=True)
    run = RayRun(queue, Share(("cpu",), 0, 1), watcher=watcher, log_folder=tmp_path)
    running = _Placement(jobs[0], "first", host="here")
    run._placements = {"running": running, "waiting": _Placement(jobs[1], "second")}
    run._take(running, {"event": "died", "how": "its process died"}, StopFlag())
    assert queue.halted
    assert killed == ["second"]
    assert list(run._placements) == ["running"]


def test_a_node_that_does_not_see_the_sweeps_folder_says_so(write_config: Write, tmp_path: Path) -> None:
    from focalbench.launchers.job import Job
    from focalbench.launchers.ray import Trainer

    (trial,) = load_config(write_config()).trials
    job = Job(trial=trial, folder=tmp_path / "not-there" / trial.name, devices=("cpu",), threads=1)
    placed, finished = Trainer().train(job.to_line(), str(tmp_path), {})
    assert placed == {"event": "placed", "host": socket.gethostname()}
    assert (finished["state"], finished["exit_code"]) == ("failed", 2)
    assert "--out should be on storage that all nodes share" in finished["error"]
    assert not (tmp_path / "not-there").exists()
