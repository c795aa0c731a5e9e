"""The figures of docs/reliability.md: kills, signals and bad inputs by the hundred, and what they left behind.

    python scripts/fault_injection.py OUT

Every case is written to OUT/journal.jsonl as it ends: the same command again goes on where it was stopped. At the end
a table is printed and OUT/summary.json written. Exit code 1 when anything was not as promised.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))  # where injection is
sys.path.insert(0, str(Path(__file__).parents[1]))  # the focalbench beside this script

from injection import kills, verdicts
from injection.commands import Sandbox, digest_of
from injection.fork_server import ForkServer
from injection.journal import Case, Journal
from injection.voc_set import VocSet

PARTS = ("saving", "checkpoint", "training", "start", "sweep", "signals", "data", "config", "trial", "large")


def main() -> None:
    """Runs what is missing, prints the table, ends with 0 or 1."""
    options = _parse()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    journal, sandbox = Journal(out / "journal.jsonl", options.seed), Sandbox(out / "sandbox")
    root = out / "user data"
    if not root.exists():
        VocSet(root)
    before = journal.once("user data", "before", lambda: {"digest": digest_of(root)})["digest"]
    started = time.monotonic()
    _run_parts(options, journal, sandbox, out, root)
    journal.note("time", str(time.time()), seconds=time.monotonic() - started)
    summary = {
        **{part: _summarise(part, journal) for part in PARTS if part in journal.cases},
        "user data": {"unchanged": digest_of(root) == before},
        "written outside": [str(path) for path in _written_outside(sandbox, out)],
        "seconds": sum(case["seconds"] for case in journal.cases["time"].values()),
        "machine": _machine(),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _print(summary)
    wrong = sum(part.get("wrong", 0) for part in summary.values() if isinstance(part, dict))
    sys.exit(1 if wrong or summary["written outside"] or not summary["user data"]["unchanged"] else 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for everything; a few hundred MB")
    parser.add_argument("--saving", type=int, default=100, help="kills of a process that only saves, in each way")
    parser.add_argument("--checkpoint", type=int, default=100, help="kills while checkpoints are written")
    parser.add_argument("--training", type=int, default=50, help="kills within an epoch")
    parser.add_argument("--start", type=int, default=20, help="kills of the command before its first checkpoint")
    parser.add_argument("--sweep", type=int, default=20, help="kills of a sweep")
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts only")
    return parser.parse_args()


def _run_parts(options: argparse.Namespace, journal: Journal, sandbox: Sandbox, out: Path, root: Path) -> None:
    """Trials run in the sandbox's work folder, so that whatever they write elsewhere is found."""
    base, scratch, wanted = sandbox.work, out / "scratch", set(options.only)
    kills.write_configs(base, root)
    with ForkServer(sandbox.environment(), base) as server:
        if wanted & {"saving"}:
            kills.kill_savers(journal, server, base / "runs", options.saving)
        if wanted & {"checkpoint", "training", "start", "sweep", "signals", "trial"}:
            unbroken = kills.run_unbroken(sandbox, server, base)
        if "checkpoint" in wanted:
            kills.kill_in_checkpoints(journal, server, unbroken, base, options.checkpoint)
        if "training" in wanted:
            kills.kill_in_training(journal, server, unbroken, base, options.training)
    if "start" in wanted:
        kills.kill_at_start(journal, sandbox, unbroken, base, options.start)
    if "sweep" in wanted:
        kills.kill_in_sweep(journal, sandbox, unbroken, base, options.sweep)
    if "signals" in wanted:
        kills.send_signals(journal, sandbox, unbroken, base, options.signals)
    if "data" in wanted:
        verdicts.meet_data(journal, sandbox, scratch)
    if "config" in wanted:
        verdicts.meet_configs(journal, sandbox, scratch)
    if "trial" in wanted:
        verdicts.meet_trials(journal, sandbox, scratch, unbroken.long)
    if "large" in wanted:
        verdicts.check_large_set(journal, sandbox, scratch)


def _summarise(part: str, journal: Journal) -> dict[str, Any]:
    cases = list(journal.cases[part].values())
    found: dict[str, Any] = {"cases": len(cases), "wrong": sum(bool(case["wrong"]) for case in cases)}
    if part == "saving":
        ways = ((way, [case for case in cases if case["case"].startswith(way)]) for way in ("plain", "sound"))
        found["lost"] = {way: f"{sum(case['lost'] for case in some)} of {len(some)}" for way, some in ways}
    elif part in ("checkpoint", "training"):
        found["killed before the end"] = sum(case["killed"] for case in cases)
        found["left by the kill"] = dict(Counter(case["left"] for case in cases))
    elif part in ("start", "sweep"):
        blows = [blow for case in cases for blow in case["kills"]]
        found["kills"] = len(blows)
        found["killed before the end"] = sum(blow["killed"] for blow in blows)
        found["of the launcher alone"] = sum(blow["whom"] == "launcher" for blow in blows)
        found["longest wait for workers to end, s"] = max((blow["gone_s"] or float("inf") for blow in blows), default=0)
    elif part == "signals":
        times = [case["seconds"] for case in cases if "seconds" in case]
        found |= {"signals": len(times), "median s": statistics.median(times), "largest s": max(times)}
    else:
        found |= _costs(cases)
    return found


def _costs(cases: list[Case]) -> dict[str, Any]:
    groups = dict(Counter(case["group"] for case in cases))
    slowest, largest = (max(cases, key=lambda case: case[key]) for key in ("seconds", "peak_mb"))
    return {
        "groups": groups,
        "exit codes": {str(code): count for code, count in Counter(case["code"] for case in cases).items()},
        "tracebacks": sum(case["traceback"] for case in cases),
        "slowest": [slowest["case"], round(slowest["seconds"], 2)],
        "largest, MiB": [largest["case"], round(largest["peak_mb"])],
    }


def _written_outside(sandbox: Sandbox, out: Path) -> list[Path]:
    """What commands opened for writing, or left, and is still there, but for outputs and the cache folder."""
    allowed = (sandbox.work / "runs", sandbox.work / "report.html", sandbox.root / "home" / ".cache" / "focalbench")
    # Code that Numba compiled lies beside its module, as Python's own does.
    allowed += tuple((Path(__file__).parents[1] / "focalbench").rglob("__pycache__"))
    ours = {sandbox.work, sandbox.root / "home", sandbox.root / "tmp", out / "scratch"}
    ours |= {sandbox.work / name for name in ("tiny.yaml", "sweep.yaml", "long.yaml", "writes.txt", "fork_server.log")}
    ours |= {sandbox.root / "home" / ".cache"}
    left = {path for name in ("work", "home", "tmp") for path in (sandbox.root / name).rglob("*")}
    found = {path for path in (*sandbox.written(), *left) if os.path.lexists(path) and path != Path(os.devnull)}
    return sorted(path for path in found - ours if not any(path == a or a in path.parents for a in allowed))


def _machine() -> dict[str, Any]:
    from focalbench.runtime import environment

    return {**environment(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}


def _print(summary: dict[str, Any]) -> None:
    for part, found in summary.items():
        if isinstance(found, dict):
            words = ", ".join(f"{key}: {value}" for key, value in found.items())
            print(f"{part:12} {words}")
        else:
            print(f"{part}: {found}")


if __name__ == "__main__":
    main()
