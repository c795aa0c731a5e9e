"""Every figure that needs a GPU, in one command: a process for each part, the most valuable part first.

Usage: python scripts/gpu_figures.py --out DIR [--data ROOT] [--sweep-data ROOT] [--seconds 400] [--device cuda:0]

ROOT is a folder in VOC's layout, which holds VOC2007: that of ``--data`` is for whole trainings (``--train`` and
``--val`` name its splits), that of ``--sweep-data`` for sweeps (BCCD, which experiments/table1b_gamma.yaml fits). Each
figure is one line of JSON in DIR/figures.jsonl and on stdout as soon as it is there; DIR also gets what processes
complained of, profiles, and the runs without their checkpoints.

What a figures file, DIR's own or one given with ``--have``, holds already is not measured again: the same command goes
on where time ended it. focalbench need not be installed, only what it requires. ``--list`` prints the parts with the
seconds that each is expected to take. Tests and rehearsals pass ``--device cpu``, which measures small stand-ins.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
FIGURES, COMPLAINTS, RUNS = "figures.jsonl", "stderr.txt", "runs.tgz"
LEAST_S = 12.0  # a process that imports torch needs as much before it has measured anything
CONTEXT_LOST, NOT_ALL = 3, 4  # exit codes of a part whose CUDA context is dead, and of one that time did not do for
_KILL_S = 5.0


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        expected_s: seconds on a fast GPU, by arithmetic until it is measured.
        limit_s: seconds after which it is ended.
        needs: the option without which it measures nothing.
    """

    name: str
    expected_s: float
    limit_s: float
    needs: str = ""


# In the order of value: what ends for want of time is the least of it.
PARTS = (
    Part("machine", 35, 100),
    Part("waits", 18, 60),
    Part("tests", 40, 90),
    Part("step", 60, 120),
    Part("training", 105, 200, "data"),
    Part("evaluation", 15, 60, "data"),
    Part("kernels", 45, 100),
    Part("graph", 22, 60),
    Part("cases", 75, 120),
    Part("sweep", 110, 150, "sweep_data"),
    Part("determinism", 45, 90),
    Part("side_by_side", 45, 90),
    Part("without_search", 15, 60),
    Part("variants", 25, 90),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what there is time for; returns 0 when no part has failed."""
    options = _options(arguments)
    chosen = [part for part in PARTS if _is_chosen(part, options)]
    if options.list:
        print("\n".join(f"{part.name:13} {part.expected_s:4.0f} s" for part in chosen))
        print(f"{'all':13} {sum(part.expected_s for part in chosen):4.0f} s")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    work = options.work or Path(tempfile.mkdtemp(prefix="focalbench-figures-"))
    ends, faults = time.monotonic() + options.seconds, 0
    with (options.out / FIGURES).open("a", encoding="utf-8") as file:
        for part in chosen:
            faults += _run_part(part, options, work, ends, file) not in (0, NOT_ALL, None)
            _keep_runs(work, options.out)
    return min(faults, 1)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"), help="folder for the results")
    parser.add_argument("--data", type=Path, help="data root of whole trainings")
    parser.add_argument("--train", nargs="+", default=["2007/trainval"], help="splits of --data to train on")
    parser.add_argument("--val", nargs="+", default=["2007/test"], help="splits of --data to evaluate on")
    parser.add_argument("--sweep-data", type=Path, help="data root of the sweeps: BCCD")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=400.0, help="no part begins after this")
    parser.add_argument("--only", nargs="+", choices=names, help="these parts alone")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], help="leave these parts out")
    parser.add_argument("--have", nargs="+", type=Path, default=[], help="figures files of earlier calls")
    parser.add_argument("--work", type=Path, help="folder for trainings; else a temporary one")
    parser.add_argument("--list", action="store_true", help="print the parts and measure nothing")
    options = parser.parse_args(arguments)
    if options.data and not options.list:
        _require_splits(parser, options.data, [*options.train, *options.val])
    return options


def _require_splits(parser: argparse.ArgumentParser, root: Path, splits: Sequence[str]) -> None:
    """Refuses now what a part would find out after minutes on a machine that is lent."""
    for split in splits:
        year, _, name = split.partition("/")
        if not (list_file := root / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt").exists():
            parser.error(f"--data: no {list_file}: name splits that are there with --train and --val")


def _is_chosen(part: Part, options: argparse.Namespace) -> bool:
    given = not part.needs or getattr(options, part.needs) is not None
    return given and part.name not in options.skip and (not options.only or part.name in options.only)


def measured(files: Sequence[Path]) -> dict[str, set[str]]:
    """Returns the names of the cases that figures files hold a figure of, by part; ``end`` for a part that is done."""
    found: dict[str, set[str]] = {}
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        for line in lines:
            try:
                figure = json.loads(line)
            except ValueError:
                continue  # a machine that was taken away leaves half a line
            if not ({"failed", "left_out"} & figure.keys()) and figure.get("ended", 0) == 0:
                found.setdefault(figure["part"], set()).add(figure["case"])
    return found


def _run_part(part: Part, options: argparse.Namespace, work: Path, ends: float, file: IO[str]) -> int | None:
    """Runs one part and passes its figures on; returns its exit code, or None where it did not begin."""
    known = measured([*options.have, options.out / FIGURES]).get(part.name, set())
    if "end" in known:
        return None
    began = time.monotonic()
    limit = min(part.limit_s, ends - began)
    if limit < LEAST_S:
        _pass_on({"part": part.name, "case": "end", "left_out": "no time left"}, file)
        return None
    code = CONTEXT_LOST
    # A CUDA error that sticks takes the process with it: a fresh one goes on after the case that met it.
    while code == CONTEXT_LOST and (left := began + limit - time.monotonic()) >= LEAST_S:
        code, tried = _run_process(part, options, work, left, known, file)
        known = known | tried
    seconds = round(time.monotonic() - began, 1)
    _pass_on({"part": part.name, "case": "end", "ended": code, "part_s": seconds, "of_s": round(limit, 1)}, file)
    return code


def _run_process(
    part: Part, options: argparse.Namespace, work: Path, seconds: float, known: set[str], file: IO[str]
) -> tuple[int, set[str]]:
    """Returns the exit code of a process, and the cases that it has figures of or failed in."""
    tried = set()
    with (options.out / COMPLAINTS).open("ab") as complaints:
        process = subprocess.Popen(
            _command(part, options, work, seconds, known),
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_environment(),
            start_new_session=True,  # trainings have processes of their own, which must end with it
        )
    watch = threading.Timer(seconds, _end, (process,))
    watch.start()
    for figure in _figures_of(process):
        _pass_on(figure, file)
        tried.add(figure["case"])
    code = process.wait()
    watch.cancel()
    _end(process)
    return code, tried


def _command(part: Part, options: argparse.Namespace, work: Path, limit: float, known: set[str]) -> list[str]:
    request = {
        "part": part.name,
        "device": options.device,
        "seconds": limit,
        "known": sorted(known),
        "work": str(work),
        "out": str(options.out.resolve()),
        "data": options.data and str(options.data.resolve()),
        "train": options.train,
        "val": options.val,
        "sweep_data": options.sweep_data and str(options.sweep_data.resolve()),
    }
    return [sys.executable, "-m", "gpu_parts", json.dumps(request)]


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "KINETO_LOG_LEVEL": "99"}


def _figures_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                print(line.decode(errors="replace").rstrip(), flush=True)  # a library's words


def _pass_on(figure: dict[str, Any], file: IO[str]) -> None:
    """Writes a figure so that it is there whatever happens next."""
    line = json.dumps(figure)
    print(line, file=file, flush=True)
    print(line, flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the part and all that it started."""
    for signum, patience in ((signal.SIGTERM, _KILL_S), (signal.SIGKILL, 0.0)):
        try:
            os.killpg(process.pid, signum)
        except ProcessLookupError:
            return
        until = time.monotonic() + patience
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)


def _keep_runs(work: Path, out: Path) -> None:
    """Packs the runs: results, curves and detections, without weights and pictures."""
    if not (work / "runs").exists():
        return
    left_out = ("checkpoints", ".lock", "events.out")
    with tarfile.open(out / RUNS, "w:gz") as archive:
        archive.add(
            work / "runs", "runs", filter=lambda item: None if any(word in item.name for word in left_out) else item
        )


if __name__ == "__main__":
    sys.exit(main())
