"""``run``: trains what a configuration says, one trial or a sweep, and shows how the arms compare."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focalbench import console
from focalbench.board.address import where_to_look
from focalbench.cli.completion import complete_device
from focalbench.cli.config import AsJson, ConfigPath, Overrides
from focalbench.errors import DataError, InterruptedTrial
from focalbench.records.state import TrialState
from focalbench.tags import BEST_MEAN_AP, MEAN_AP

if TYPE_CHECKING:
    from focalbench.analysis.comparison import Comparison
    from focalbench.config.load import Experiment
    from focalbench.config.sweep import Trial
    from focalbench.experiment.rehearsal import Rehearsal
    from focalbench.launchers.forecast import Forecast
    from focalbench.launchers.local import Slots
    from focalbench.launchers.session import Session
    from focalbench.launchers.until_decided import Trainings
    from focalbench.records.sweep import SweepFolder

OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the results. Default: runs/NAME.", show_default=False)
]

_MAX_LISTED = 20


def run(
    config: ConfigPath,
    overrides: Overrides = None,
    out: OutOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="auto, cpu, cuda or cuda:N. Default: run.device.", show_default=False, autocompletion=complete_device
        ),
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(help="local or ray. Default: run.launcher.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trials and how long they may take; train nothing.")
    ] = False,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="With --dry-run: time some steps if no trial has finished.")
    ] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; older results are set aside.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train failed trials again.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start no more trials after a failure.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one trial or all of a sweep. Run again, the same command resumes where it stopped."""
    from focalbench.config.load import load_config

    chosen = {"run.device": device, "run.launcher": launcher}
    extra = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    experiment = load_config(config, [*(overrides or ()), *extra])

    from focalbench.api.training import default_folder, train  # after that: what is wrong is said at once
    from focalbench.launchers.session import SessionOptions

    folder = out if out is not None else default_folder(experiment)
    if dry_run:
        _list_trials(experiment, folder, retry_failed=retry_failed, fresh=fresh, timing=timing, as_json=as_json)
        return
    options = SessionOptions(experiment.config.run.device, fresh, retry_failed, fail_fast, _command())
    try:
        session = train(experiment, folder, options)
    except InterruptedTrial as stopped:  # before the first trial started, and before --fresh set anything aside
        if as_json:
            _print_document(_as_found(experiment.trials, folder, stopped.signum), folder)
        console.info(f"{stopped}; resume with: {shlex.join(['focalbench', *sys.argv[1:]])}")
        raise typer.Exit(stopped.exit_code) from None
    _report(session, folder, as_json)
    if session.signum is not None:
        console.info(f"stopped; resume with: {_command()}")
    raise typer.Exit(session.exit_code)


def _as_found(trials: tuple[Trial, ...], folder: Path, signum: int) -> Session:
    """The session that ``signum`` stopped before it changed anything."""
    from focalbench.launchers.session import Session
    from focalbench.records.sweep import SweepFolder

    sweep = SweepFolder(folder)
    return Session(trials, {trial.name: sweep.trial(trial.name).state() for trial in trials}, {}, signum)


def _command() -> str:
    """What trains the rest of this sweep: the same command, which sets nothing aside."""
    return shlex.join(["focalbench", *(argument for argument in sys.argv[1:] if argument != "--fresh")])


def _report(session: Session, folder: Path, as_json: bool) -> None:
    """Arms and verdicts, then what did not work, then where to look next."""
    if as_json:
        _print_document(session, folder)
        return
    rows = [_trial_row(trial, session, folder) for trial in session.trials]
    if any(row["state"] == TrialState.DONE for row in rows):
        _print_comparison(session, folder)
    if session.ending:
        console.print_text(f"\n{session.ending}")
    for line in _unfinished_lines(rows):
        console.print_text(line)
    if any(row["state"] == TrialState.FAILED for row in rows):
        console.print_text("--retry-failed trains the failed ones again, each from its newest checkpoint")
    console.print_text(f"\nresults: {folder}\n{where_to_look(folder)}")


def _print_document(session: Session, folder: Path) -> None:
    rows = [_trial_row(trial, session, folder) for trial in session.trials]
    comparison = _comparison(session, folder, with_test_set_noise=False)
    words = {} if comparison is None else {entry.arm: entry.verdict for entry in comparison.comparisons}
    added = [] if comparison is None else list(comparison.added_seeds)
    document = {"out": str(folder), "trials": rows, "verdicts": words, "added_seeds": added}
    console.print_json(document | {"ending": session.ending, "exit_code": session.exit_code})


def _unfinished_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The trials that something went wrong with, each with its reason; the others are only counted."""
    rest = [row for row in rows if row["state"] != TrialState.DONE]
    faulty = [row for row in rest if _went_wrong(row)]
    for row in faulty[:_MAX_LISTED]:
        yield f"{row['name']}: {row['state']}{': ' + row['error'] if row['error'] else ''}"
    if len(faulty) > _MAX_LISTED:
        yield f"... and {len(faulty) - _MAX_LISTED} more"
    counts = Counter(row["state"] for row in rest if not _went_wrong(row))
    if counts:
        yield f"not finished: {', '.join(f'{number} {state}' for state, number in counts.items())}"


def _went_wrong(row: dict[str, Any]) -> bool:
    return row["state"] == TrialState.FAILED or bool(row["error"])


def _trial_row(trial: Trial, session: Session, folder: Path) -> dict[str, Any]:
    from focalbench.records.reader import read_trial

    record = read_trial(folder / trial.name)
    result = record.result
    return {
        "name": trial.name,
        "arm": trial.arm,
        "seed": trial.seed,
        "state": session.states[trial.name],
        "error": record.error or None,
        MEAN_AP: result.mean_ap,
        BEST_MEAN_AP: result.best_mean_ap,
        "wall_s": result.wall_s,
        "gpu_memory_mb": result.gpu_memory_mb,
    }


def _comparison(session: Session, folder: Path, *, with_test_set_noise: bool = True) -> Comparison | None:
    """What ``focalbench compare`` finds in the trials of this sweep, not in what an earlier form of it left; None where
    nothing can be compared.
    """
    from focalbench.analysis.look_record import compare_and_record
    from focalbench.records.reader import read_trials

    own = [path for trial in session.trials if (path := folder / trial.name).is_dir()]
    if not own:
        return None
    trials = read_trials(own)
    try:
        return compare_and_record(trials, with_test_set_noise=with_test_set_noise)
    except DataError as fault:  # nothing has finished, or the mAP is undefined everywhere
        if any(trial.counts for trial in trials):
            console.warn(str(fault))
        return None


def _print_comparison(session: Session, folder: Path) -> None:
    from focalbench.cli.compare import print_comparison
    from focalbench.records.sweep import SweepFolder

    comparison = _comparison(session, folder)
    if comparison is not None:
        print_comparison(comparison)
    own = {trial.name for trial in session.trials}
    others = sum(row["name"] not in own and (folder / row["name"]).is_dir() for row in SweepFolder(folder).listed())
    if others:
        console.print_text(
            f"{console.counted(others, 'other trial')} in {folder} {'is' if others == 1 else 'are'} not part of this "
            "sweep, but focalbench compare includes every trial"
        )


def _list_trials(
    experiment: Experiment, folder: Path, *, retry_failed: bool, fresh: bool, timing: bool, as_json: bool
) -> None:
    """What would run, how each trial stands, and the time it may take."""
    from dataclasses import asdict

    from focalbench.launchers.local import slots_of
    from focalbench.launchers.search import leaves_stopped, num_search_trials
    from focalbench.launchers.session import known_trials
    from focalbench.launchers.until_decided import declared_plan, forecast_until_decided
    from focalbench.records.sweep import SweepFolder
    from focalbench.records.sweep_lock import require_folder

    require_folder(folder)
    config = experiment.config
    found = SweepFolder(folder / ".set-aside" if fresh else folder)  # --fresh begins with nothing there
    found.listed()  # refuses another version's list, and another plan, as a run would
    if (plan := declared_plan(experiment)) is not None:
        found.require_plan(plan)
    trials = known_trials(experiment, found)
    slots = None  # how many trials a cluster takes at once is not known before it is asked
    if config.run.launcher == "local":
        slots = slots_of(config, config.run.device, len(trials) + num_search_trials(config))
    left, unknown = _forecast(trials, found, slots, timing, retry_failed, with_stopped=not leaves_stopped(config))
    num_slots = 1 if slots is None else len(slots.devices)
    rows: list[dict[str, Any]] = [
        {"name": t.name, "arm": t.arm, "seed": t.seed, "differs": t.differs, "state": found.trial(t.name).state()}
        for t in trials
    ]
    expected = forecast_until_decided(experiment, found)
    if as_json:
        document = {"name": config.name, "out": str(folder), "trials": rows, "estimate": asdict(left)}
        console.print_json(document | ({} if expected is None else {"until_decided": asdict(expected)}))
        return
    console.print_table(
        ["trial", "state", "differs in"], [(row["name"], row["state"], _assignments(row["differs"])) for row in rows]
    )
    console.print_text(
        f"{len(rows)} trial{'s'[: len(rows) != 1]} in {folder}; nothing was "
        f"trained\n{_time_words(left, num_slots, unknown)}"
    )
    if expected is not None:
        console.print_text(_expected_words(expected, left, num_slots))
    if config.sweep is not None and config.sweep.search is not None:
        num = config.sweep.search.num
        console.print_text(
            f"sweep.search proposes {console.counted(num, 'arm')} in all, based on the results of others; only those "
            "known so far are listed"
        )


def _forecast(
    trials: Sequence[Trial],
    found: SweepFolder,
    slots: Slots | None,
    timing: bool,
    retry_failed: bool,
    *,
    with_stopped: bool,
) -> tuple[Forecast, str]:
    """The time left, going by what has finished or by a rehearsal; and why there was none."""
    from focalbench.errors import FocalbenchError
    from focalbench.launchers.forecast import forecast
    from focalbench.launchers.rehearsal import rehearse_side_by_side

    def rehearse(trial: Trial) -> Rehearsal:
        assert slots is not None  # else nobody calls it
        console.info(f"timing some steps of {trial.name} ...")
        return rehearse_side_by_side(trial, slots)

    left = partial(
        forecast,
        trials,
        found,
        num_slots=1 if slots is None else len(slots.devices),
        device=None if slots is None else slots.devices[0][0],
        retry_failed=retry_failed,
        with_stopped=with_stopped,
    )
    if not timing or slots is None or len(slots.devices[0]) > 1:  # devices that share a trial are not rehearsed
        return left(), ""
    try:
        return left(rehearse=rehearse), ""
    except FocalbenchError as fault:
        return left(), str(fault).splitlines()[0]


def _assignments(differs: dict[str, Any]) -> str:
    """``loss.gamma=2 loss.alpha=0.5``."""
    return " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in differs.items())


def _expected_words(expected: Trainings, left: Forecast, num_slots: int) -> str:
    """How many trainings a sweep takes that ends by itself, and how long they last where that is known."""
    known = "as they have so far" if expected.measured else "which only the first look can show"
    most = ""
    if left.longest is not None:
        most = f" (about {console.duration(left.longest * math.ceil(expected.most / num_slots))} in all)"
    return (
        f"sweep.until: at least {expected.least} trials, at most {expected.most}{most}; about "
        f"{expected.expected:.0f} if no arm differs and paired differences scatter by {100 * expected.sd:.2f} "
        f"points, {known}"
    )


def _time_words(left: Forecast, num_slots: int, unknown: str) -> str:
    """The forecast as a sentence; what is not known is said, and why."""
    if left.num_left == 0:
        return "nothing is left to train"
    trials = f"{left.num_left} trial{'s'[: left.num_left > 1]} left to train"
    if left.seconds is None:
        if unknown:
            return f"{trials}; how long they will take is not known: {unknown}"
        return f"{trials}; how long they will take is not known until the first has finished: ask again then"
    if left.num_known < left.num_left:
        trials = f"{left.num_known} of {trials} (none like the others has finished yet)"
    words = f"{num_slots} side by side" if num_slots > 1 else "one after the other"
    known = [f"{left.num_measured} finished"] if left.num_measured else []
    known += ["some steps timed now"] if left.num_rehearsed else []
    return f"about {console.duration(left.seconds)} for {trials}, {words}, going by {' and '.join(known)}"
