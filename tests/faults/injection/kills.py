"""Kills and signals in full: each broken run is resumed and compared with one that nobody disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from focalbench.board.names import ARMS, VERDICT
from focalbench.training.checkpoint import list_checkpoints, load_checkpoint, load_newest
from injection.commands import Sandbox, processes_with, wait_for_handlers, wait_until_gone
from injection.equality import checkpoint_differences, differences, remains
from injection.fork_server import ForkServer, KillAtMoment, KillAtWrite
from injection.journal import Journal

CONFIG = """\
name: {name}
data: {{name: voc, root: {root}, train: [2007/train], val: [2007/val], image_size: 64}}
model: {{name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}}
loss: {{name: ghm}}
optim: {{name: adamw, lr: 1e-3, steps: {steps}, batch_size: 2, warmup_steps: 2, ema: 0.9}}
eval: {{every: {every}, score_thresh: 0.0, max_detections: 20}}
run: {{log_every: 2, checkpoint_every: {save}}}
{more}"""
STEPS = 12
SWEEP = "sweep: {seeds: [0, 1], list: [{name: ce, loss: {name: ce}}, {name: ghm, loss: {name: ghm}}]}\n"
_CHECKPOINT_WRITES = r"\w+ (step-\d+\.pt|step-\d+\.pt\.sha256|best\.pt|best\.pt\.sha256|checkpoints)"
_SAVE_S = 0.03  # a little more than one checkpoint takes
_ORPHAN_LIMIT_S = 90.0
SIGNAL_LIMIT_S = 10.0


@dataclass(frozen=True)
class Unbroken:
    """What broken runs are compared with.

    Attributes:
        whole: a trial's folder.
        states: its checkpoint after every step.
        writes: the labels of its writes.
        command: the same trial's folder as the command trains it, on as many threads as there are cores.
        first_s: seconds from a command's start to its first checkpoint.
        sweep: a sweep's folder.
        long: the folder of a trial of many steps.
    """

    whole: Path
    states: dict[int, dict[str, Any]]
    writes: list[str]
    command: Path
    first_s: float
    sweep: Path
    long: Path


def write_configs(folder: Path, root: Path) -> None:
    """The three experiments that are broken off."""
    often, seldom = {"steps": STEPS, "every": 2, "save": 0.001}, {"steps": 1500, "every": 250, "save": 5}
    for name, more, length in (("tiny", "", often), ("sweep", SWEEP, often), ("long", "", seldom)):
        (folder / f"{name}.yaml").write_text(CONFIG.format(name=name, root=json.dumps(str(root)), more=more, **length))


def run_unbroken(sandbox: Sandbox, server: ForkServer, folder: Path) -> Unbroken:
    """Trains what the rest is compared with; what is there already is kept."""
    config, record = folder / "tiny.yaml", folder / "writes.txt"
    whole, all_steps = folder / "runs" / "whole", folder / "runs" / "states"
    _require(server.run(config, all_steps, overrides=["run.keep_checkpoints=1000"]).code)
    if not (whole / "result.json").exists():
        _require(server.run(config, whole, record=record).code)
    # Once unmeasured: caches, the fonts' list among them, are built now.
    warm = folder / "runs" / "warm"
    _require(sandbox.run("run", config, "--out", warm, "--fresh").code)
    shutil.rmtree(folder / "runs" / "first", ignore_errors=True)
    first_s = _time_to_first_checkpoint(sandbox, config, folder / "runs" / "first")
    sweep, long = folder / "runs" / "sweep", folder / "runs" / "long"
    _require(sandbox.run("run", folder / "sweep.yaml", "--out", sweep).code)
    _require(sandbox.run("run", folder / "long.yaml", "--out", long).code)
    states = {}
    for path in list_checkpoints(all_steps / "checkpoints"):
        state = load_checkpoint(path)
        states[state["step"]] = state
    (command,), (trial,) = (out.glob("*/result.json") for out in (warm, long))
    return Unbroken(whole, states, record.read_text().splitlines(), command.parent, first_s, sweep, trial.parent)


def _require(code: int) -> None:
    if code:
        raise SystemExit(f"the unbroken run ended with {code}: nothing to compare with")


def _time_to_first_checkpoint(sandbox: Sandbox, config: Path, out: Path) -> float:
    started = time.monotonic()
    process = sandbox.start("run", config, "--out", out)
    while not list(out.glob("*/checkpoints/step-*.pt")):
        if process.poll() is not None:
            raise SystemExit("the unbroken run ended before its first checkpoint")
        time.sleep(0.02)
    found = time.monotonic() - started
    process.communicate()
    return found


def kill_savers(journal: Journal, server: ForkServer, scratch: Path, count: int) -> None:
    """A process that only saves, killed: with ``torch.save`` to the file itself, and with focalbench's way."""
    for way in ("plain", "sound"):
        for name, rng in journal.missing("saving", [f"{way} {number}" for number in range(count)]):
            folder = _fresh(scratch / "saving")
            folder.mkdir(parents=True)
            server.save_over_and_over(folder, plain=way == "plain", delay=rng.uniform(0, 0.3))
            lost = _is_lost(folder, way == "plain")
            journal.note("saving", name, lost=lost, wrong=["lost"] if lost and way == "sound" else [])


def _is_lost(folder: Path, plain: bool) -> bool:
    try:
        if plain:
            state = torch.load(folder / "plain.pt", weights_only=True)
        else:
            state = load_newest(folder) or {}
        return any(not bool((state[f"layer{i}"] == i).all()) for i in range(64))
    except Exception:  # whatever is the reason, it cannot be loaded
        return True


def kill_in_checkpoints(journal: Journal, server: ForkServer, unbroken: Unbroken, base: Path, count: int) -> None:
    """By turns at one of a checkpoint's writes, and at a random moment after a checkpoint was begun."""
    labels = [label for label in unbroken.writes if re.fullmatch(_CHECKPOINT_WRITES, label)]
    for name, rng in journal.missing("checkpoint", [str(number) for number in range(count)]):
        kill: KillAtWrite | KillAtMoment
        if int(name) % 2:
            kill = KillAtMoment(f"checkpoint {rng.randint(1, STEPS)}", rng.uniform(0, _SAVE_S))
        else:
            place = rng.randrange(len(labels))
            occurrence = labels[: place + 1].count(labels[place])
            kill = KillAtWrite(re.escape(labels[place]), rng.choice(("before", "half", "after")), occurrence)
        _kill_and_resume(journal, server, unbroken, base, "checkpoint", name, kill, [])


def kill_in_training(journal: Journal, server: ForkServer, unbroken: Unbroken, base: Path, count: int) -> None:
    """At a random moment of a step within an epoch, with checkpoints so rare that steps are lost and done again."""
    within = [step for step in range(2, STEPS + 1) if step % 3 != 1]  # an epoch has three
    for name, rng in journal.missing("training", [str(number) for number in range(count)]):
        kill = KillAtMoment(f"step {rng.choice(within)}", rng.uniform(0, 0.03))
        _kill_and_resume(journal, server, unbroken, base, "training", name, kill, ["run.checkpoint_every=0.15"])


def _kill_and_resume(
    journal: Journal,
    server: ForkServer,
    unbroken: Unbroken,
    base: Path,
    part: str,
    name: str,
    kill: KillAtWrite | KillAtMoment,
    overrides: list[str],
) -> None:
    folder, config = _fresh(base / "runs" / "killed"), base / "tiny.yaml"
    ended = server.run(config, folder, overrides=overrides, kill=kill)
    left = remains(folder / "checkpoints")
    wrong = checkpoint_differences(folder, unbroken.states)
    resumed = server.run(config, folder, overrides=overrides)
    wrong += [f"exit code {resumed.code}: {resumed.text}"] if resumed.code or resumed.text else []
    wrong += differences(folder, unbroken.whole)
    journal.note(part, name, killed=ended.code == -9, kill=str(kill), left=left, wrong=wrong)


def kill_at_start(
    journal: Journal, sandbox: Sandbox, unbroken: Unbroken, base: Path, count: int, links: int = 4
) -> None:
    """The command, killed before its first checkpoint; ``links`` times in a row with a new cache, then to the end."""
    for name, rng in journal.missing("start", [str(number) for number in range(0, count, links)]):
        shutil.rmtree(sandbox.root / "home" / ".cache", ignore_errors=True)
        out, kills = _fresh(base / "runs" / "started"), []
        command = ("run", base / "tiny.yaml", "--out", out)
        while len(kills) < min(links, count - int(name)):
            found = _kill_command(sandbox, command, rng.uniform(0.1, unbroken.first_s), rng)
            if list(out.glob("*/checkpoints/step-*.pt")):
                _fresh(out)  # too late: that was no start
            else:
                kills.append(found)
        wrong = [fault for kill in kills for fault in kill["wrong"]] + _finish(sandbox, command)
        for trial in _trial_folders(out):
            wrong += differences(trial, unbroken.command)
        journal.note("start", name, kills=kills, wrong=wrong)


def kill_in_sweep(
    journal: Journal, sandbox: Sandbox, unbroken: Unbroken, base: Path, count: int, links: int = 5
) -> None:
    """A sweep of four trials, killed ``links`` times in a row while it trains, then to the end."""
    for name, rng in journal.missing("sweep", [str(number) for number in range(0, count, links)]):
        out, kills = _fresh(base / "runs" / "swept"), []
        command = ("run", base / "sweep.yaml", "--out", out)
        while len(kills) < min(links, count - int(name)):
            found = _kill_command(sandbox, command, unbroken.first_s * rng.uniform(0.5, 1.5), rng)
            if found["killed"]:
                kills.append(found)
            else:
                _fresh(out)  # the sweep had ended
        wrong = [fault for kill in kills for fault in kill["wrong"]] + _finish(sandbox, command)
        wrong += _sweep_differences(out, unbroken.sweep)
        journal.note("sweep", name, kills=kills, wrong=wrong)


def _trial_folders(sweep: Path) -> list[Path]:
    """Every folder in a sweep's but those of TensorBoard's runs of arms and verdict."""
    return sorted(path for path in sweep.iterdir() if path.is_dir() and path.name not in (ARMS, VERDICT))


def _bytes_of(sweep: Path, name: str) -> bytes:
    return (sweep / name).read_bytes()


def _listed(sweep: Path) -> bytes:
    """The sweep's list, byte by byte but for the folder's own name in the command."""
    return _bytes_of(sweep, "sweep.json").replace(str(sweep).encode(), b"OUT")


def _sweep_differences(broken: Path, whole: Path) -> list[str]:
    found = ["results.csv"] if _bytes_of(broken, "results.csv") != _bytes_of(whole, "results.csv") else []
    found += ["sweep.json"] if _listed(broken) != _listed(whole) else []
    trials = sorted(path.parent.name for path in whole.glob("*/result.json"))
    if [path.name for path in _trial_folders(broken)] != trials:
        found.append("folders")
    return found + [f"{name}: {part}" for name in trials for part in differences(broken / name, whole / name)]


def _kill_command(sandbox: Sandbox, command: tuple[object, ...], delay: float, rng: random.Random) -> dict[str, Any]:
    """Starts a command and kills it after ``delay``: its first process only, or all of them at once."""
    marker = f"FAULTS_MARK={rng.getrandbits(64):016x}"
    environment = sandbox.environment(**dict([marker.split("=")]))
    process = sandbox.start(*command, environment=environment)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    whom = "all" if rng.random() < 0.5 else "launcher"
    victims = processes_with(marker) if whom == "all" else [process.pid]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    gone_s = wait_until_gone(marker, _ORPHAN_LIMIT_S)
    facts = {"delay": delay, "whom": whom, "processes": len(victims), "killed": process.returncode == -9}
    return {**facts, "gone_s": gone_s, "wrong": [] if gone_s is not None else ["a worker outlived its launcher"]}


def _finish(sandbox: Sandbox, command: tuple[object, ...]) -> list[str]:
    ended = sandbox.run(*command)
    wrong = [] if ended.code == 0 else [f"exit code {ended.code}: {ended.stderr[-500:]}"]
    return wrong + (["traceback"] if ended.traceback else [])


def send_signals(journal: Journal, sandbox: Sandbox, unbroken: Unbroken, base: Path, count: int) -> None:
    """Signals at random moments, one after the other on one trial; at the end it is compared."""
    out = base / "runs" / "signalled"
    command = ("run", base / "long.yaml", "--out", out)
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    for name, rng in journal.missing("signals", [str(number) for number in range(count)]):
        _require_unfinished(out)
        journal.note("signals", name, **_signal(sandbox, command, kinds[int(name) % 3], rng, unbroken.first_s))
    for name, _ in journal.missing("signals", ["resumed"]):
        wrong = _finish(sandbox, command)
        for trial in _trial_folders(out):
            wrong += differences(trial, unbroken.long)
        journal.note("signals", name, wrong=wrong)


def _require_unfinished(out: Path) -> None:
    """A trial that came to its end leaves nothing to signal: it is set aside and begun again."""
    for status in out.glob("*/status.json"):
        if json.loads(status.read_text())["state"] == "done":
            shutil.rmtree(out)


def _signal(
    sandbox: Sandbox, command: tuple[object, ...], number: signal.Signals, rng: random.Random, first_s: float
) -> dict[str, Any]:
    process = sandbox.start(*command)
    wait_for_handlers(process.pid, 60)
    time.sleep(rng.uniform(0, first_s + 3))
    sent = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate()
    seconds = time.monotonic() - sent
    code = 130 if number == signal.SIGINT else 143
    wrong = [] if process.returncode == code else [f"exit code {process.returncode}, not {code}"]
    wrong += [] if "resume with: focalbench run" in stderr else ["no word on how to resume"]
    wrong += [] if seconds <= SIGNAL_LIMIT_S else [f"{seconds:.1f} s"]
    wrong += ["traceback"] if "Traceback" in stdout + stderr else []
    return {"signal": number.name, "seconds": seconds, "wrong": wrong}


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder
