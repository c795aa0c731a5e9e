"""``ls`` and ``status``: sweeps seen from another terminal, while they run or later. Nothing is written."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focalbench import console
from focalbench.cli.config import AsJson
from focalbench.errors import ConfigError, DataError
from focalbench.records.state import TrialState

if TYPE_CHECKING:
    from focalbench.analysis.comparison import Comparison
    from focalbench.analysis.judged_arms import ArmComparison, ArmResult
    from focalbench.analysis.sweep_progress import SweepProgress, SweepSummary, TrialProgress
    from focalbench.progress.rows import Row
    from focalbench.records.plan import SweepPlan

_RUNS = Path("runs")
_WATCH_S = 2.0
_MAX_LISTED = 20
_ALWAYS = (TrialState.DONE, TrialState.RUNNING, TrialState.FAILED)
"""What ``ls`` counts in a column of its own even where there is none."""


def ls(
    folder: Annotated[
        Path, typer.Argument(metavar="RUNS", help="Folder of sweeps, or of one sweep.", show_default=True)
    ] = _RUNS,
    as_json: AsJson = False,
) -> None:
    """List sweeps, one per line: how far each has got, its best arm so far, when it was last written to."""
    from focalbench.analysis.sweep_progress import summarise_sweeps

    sweeps = summarise_sweeps(folder)
    if as_json:
        console.print_json([_summary_document(sweep) for sweep in sweeps])
        return
    counted = [name for name in sweeps[0].counts if name in _ALWAYS or any(sweep.counts[name] for sweep in sweeps)]
    columns = ["sweep", *counted, "all", "arms", "best arm so far", "mAP in points", "n", "written"]
    console.print_table(columns, [_summary_row(sweep, folder, counted) for sweep in sweeps])


def _summary_row(sweep: SweepSummary, below: Path, counted: list[str]) -> list[object]:
    name = sweep.folder.name if sweep.folder == below else sweep.folder.relative_to(below)
    counts = [sweep.counts[group] for group in counted]
    mean = "-" if sweep.best_mean_ap is None else console.points(sweep.best_mean_ap)
    best = ["-", "-", 0] if sweep.best_arm is None else [sweep.best_arm, mean, sweep.best_n]
    written = "-" if sweep.written is None else f"{console.duration(time.time() - sweep.written)} ago"
    return [name, *counts, sum(sweep.counts.values()), sweep.num_arms, *best, written]


def _summary_document(sweep: SweepSummary) -> dict[str, Any]:
    best = {"arm": sweep.best_arm, "mean": sweep.best_mean_ap, "n": sweep.best_n}
    return {
        "folder": str(sweep.folder),
        "trials": dict(sweep.counts) | {"all": sum(sweep.counts.values())},
        "arms": sweep.num_arms,
        "best": None if sweep.best_arm is None else best,
        "written": sweep.written,
    }


def status(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A run folder, or its name below runs/.", show_default=False)
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Redraw every two seconds until nothing is training.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far a sweep has got: what is training now, what has failed, how the arms stand."""
    from focalbench.analysis.sweep_progress import SweepReader

    if watch and as_json:
        raise ConfigError("--json prints one document: leave out --watch and run it again as often as you like")
    reader = SweepReader(_folder_of(name))
    if watch:
        _watch(reader.read)
    progress = reader.read()
    if as_json:
        console.print_json(_document(progress))
    else:
        console.print_text(_text(progress))


def _folder_of(name: str) -> Path:
    """The folder that ``name`` means.

    Raises:
        DataError: when there is none.
    """
    places = (Path(name), _RUNS / name)
    found = [place for place in places if place.is_dir()] + [place for place in places if place.exists()]
    if found:
        return found[0]
    there = [path.name for path in _RUNS.iterdir()] if _RUNS.is_dir() else []
    close = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "`focalbench ls` lists what is there"
    raise DataError(f"{name}: no such folder, and none below {_RUNS}/; {hint}")


def _watch(read: Callable[[], SweepProgress]) -> None:
    """Shows how far the sweep is until nothing is at work, or ^C; without a terminal a line at every change."""
    from focalbench.progress.rows import redrawn

    try:
        if console.is_terminal(sys.stdout):
            with redrawn() as show:
                for progress in _until_idle(read):
                    show(_text(progress))
            return
        last = ""
        for progress in _until_idle(read):
            line = f"{progress.folder}: {_counts_text(progress)}"
            if line != last:
                console.print_text(line)
            last = line
    except KeyboardInterrupt:
        return


def _until_idle(read: Callable[[], SweepProgress]) -> Iterator[SweepProgress]:
    while (progress := read()).at_work:
        yield progress
        time.sleep(_WATCH_S)


def _text(progress: SweepProgress) -> str:
    """Everything but the trials that wait or are done, which are only counted."""
    return "\n\n".join(part for part in _parts(progress) if part)


def _parts(progress: SweepProgress) -> Iterator[str]:
    from focalbench.cli.compare import verdict_table
    from focalbench.progress.rows import rows_text

    left = f"; about {console.duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
    resume = "; nothing is running: the same `focalbench run` command resumes it"
    idle = "" if progress.at_work or not _waits(progress) else resume
    yield f"{progress.folder}: {_counts_text(progress)}{left}{idle}"
    running = [trial for trial in progress.trials if trial.at_work]
    if running:
        yield rows_text([_row(trial) for trial in running])
    faulty = [trial for trial in progress.trials if _went_wrong(trial)]
    lines = [f"{trial.name}: {trial.reason}" for trial in faulty[:_MAX_LISTED]]
    lines += [f"... and {len(faulty) - _MAX_LISTED} more"] if len(faulty) > _MAX_LISTED else []
    yield "\n".join(lines)
    if progress.comparison is not None:
        compared = {trial.arm for arm in progress.comparison.arms for trial in arm.arm.trials.values()}
        rest = [arm for arm in dict.fromkeys(trial.arm for trial in progress.trials) if arm not in compared]
        yield verdict_table(progress.comparison, f"no seed finished yet: {', '.join(rest)}" if rest else None)
        yield "\n".join(_standing(progress.comparison, progress.plan))


def _standing(comparison: Comparison, plan: SweepPlan | None) -> list[str]:
    """How far the arms are from a word, of a sweep that adds seeds until each has one."""
    from focalbench.analysis.formats import standing_lines

    if plan is None or plan.until is None or not comparison.plan.looks:
        return []
    return standing_lines(comparison, comparison.undecided, len(comparison.plan.looks[-1] or ()), plan.looks)


def _went_wrong(trial: TrialProgress) -> bool:
    return trial.was_killed or trial.state in (TrialState.FAILED, TrialState.UNREADABLE)


def _waits(progress: SweepProgress) -> bool:
    return any(not trial.state.is_final for trial in progress.trials)


def _counts_text(progress: SweepProgress) -> str:
    counts = progress.counts
    done = f"{counts.pop(TrialState.DONE)} of {len(progress.trials)} trials done"
    return ", ".join([done, *(f"{number} {group}" for group, number in counts.items() if number)])


def _row(trial: TrialProgress) -> Row:
    from focalbench.progress.rows import Row

    return Row(
        trial.name.rpartition("-")[0] or trial.name,  # without the hash
        trial.step or 0,
        trial.steps or 0,
        doing="" if trial.step else "starting",
        images_per_s=trial.images_per_s,
        seconds=trial.seconds,
        seconds_left=trial.seconds_left,
        mean_ap=trial.mean_ap,
        loss=trial.loss,
    )


def _document(progress: SweepProgress) -> dict[str, Any]:
    from dataclasses import asdict

    comparison = progress.comparison
    against = {} if comparison is None else {entry.arm: entry for entry in comparison.comparisons}
    return {
        "folder": str(progress.folder),
        "at_work": progress.at_work,
        "counts": progress.counts,
        "seconds_left": progress.seconds_left,
        "trials": [asdict(trial) | {"killed": trial.was_killed} for trial in progress.trials],
        "baseline": None if comparison is None else comparison.baseline,
        "arms": [] if comparison is None else [_arm_document(arm, against) for arm in comparison.ranked],
    }


def _arm_document(result: ArmResult, against: Mapping[str, ArmComparison]) -> dict[str, Any]:
    summary, entry = result.summary, against.get(result.arm.label)
    found = None if entry is None else entry.judgement
    return {
        "arm": result.arm.label,
        "n": summary.n,
        "mean": summary.mean,
        "sd": summary.sd,
        "difference": None if found is None else found.difference,
        "verdict": None if entry is None else entry.verdict,
    }
