"""Keeps TensorBoard's pages of a sweep up to date: reads the trials' files, writes arms/ and verdict/ beside them."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from focalbench.analysis.comparison import Comparison, compare_trials
from focalbench.board.curves import Band, SeedCurves, difference_curves, group_trials, mean_curves, seed_curves
from focalbench.board.names import ARMS, DIFFERENCE, VERDICT, bounds
from focalbench.board.ticked import ticked_columns
from focalbench.board.verdict import verdict_text
from focalbench.config.schema import ExperimentConfig
from focalbench.errors import DataError, FocalbenchError
from focalbench.records.metrics import METRICS_FILE, read_metrics
from focalbench.records.reader import TrialReader, TrialRecord
from focalbench.records.sweep import SweepFolder
from focalbench.records.trial import TrialFolder
from focalbench.tags import CLASS_AP, MEAN_AP
from focalbench.tracking.hparams import columns_of

_LOCK = ".board.lock"
_LEAST_PAUSE_S = 2.0
_SHARE = 0.005  # of a core's time that may go into this


@dataclass
class Board:
    """The runs ``arms/ARM`` and ``verdict`` of one sweep.

    Args:
        folder: of the sweep.
        configs: resolved configurations of its trials; None takes those that have begun.
    """

    folder: Path
    configs: Sequence[Mapping[str, Any]] | None = None
    _seen: Any = None
    _columns: Any = None
    _curves: dict[Path, tuple[Any, SeedCurves]] = field(default_factory=dict)
    _written: dict[str, bytes] = field(default_factory=dict)

    def update(self, *, wait_s: float = 0.0) -> None:
        """Writes what has changed since the last call; nothing where another process is just writing it.

        Args:
            wait_s: how long to wait for the other process.

        Raises:
            OSError, FocalbenchError: when the sweep cannot be read or the folder not be written.
        """
        seen = self._look()
        if seen == self._seen or not self._has_trials(seen):
            return
        try:
            with FileLock(self.folder / _LOCK, timeout=wait_s):
                self._write()
        except Timeout:
            return
        self._seen = seen

    def _has_trials(self, seen: Sequence[tuple[str, int, int]]) -> bool:
        """Whether there is anything to write yet: a search lists its trials when it has proposed them."""
        began = any(size and Path(name).name != SweepFolder.LIST for name, _, size in seen)
        return began or bool(SweepFolder(self.folder).listed())

    def _look(self) -> list[tuple[str, int, int]]:
        """Changes whenever a file does that the board follows from."""
        found = []
        for entry in os.scandir(self.folder):
            if entry.name == SweepFolder.LIST:
                found.append(_stamp(Path(entry.path)))
            elif entry.is_dir() and entry.name not in (ARMS, VERDICT):
                names = (METRICS_FILE, TrialFolder.STATUS, TrialFolder.RESULT)
                found += [_stamp(Path(entry.path) / name) for name in names]
        return sorted(found)

    def _write(self) -> None:
        trials = self._read()
        groups = group_trials(trials)
        arms = {arm: {seed: self._seed_curves(trial) for seed, trial in seeds.items()} for arm, seeds in groups.items()}
        comparison = _compare(trials)
        tags: set[str] = set()
        differences = _difference_bands(arms, _labels(groups, comparison), comparison)
        for arm, seeds in arms.items():
            bands = mean_curves(list(seeds.values()))
            bands |= {DIFFERENCE: differences[arm]} if arm in differences else {}
            tags |= bands.keys()
            self._replace(f"{ARMS}/{_folder_name(arm)}", _arm_events(bands))
        kept = {_folder_name(arm) for arm in arms}
        for path in (self.folder / ARMS).glob("*"):
            if path.name not in kept:
                self._remove(path)
        self._replace(VERDICT, self._verdict_events(trials, comparison, tags))

    def _seed_curves(self, trial: TrialRecord) -> SeedCurves:
        """What the trial has logged, read anew only where the file has changed."""
        stamp = _stamp(trial.folder / METRICS_FILE)
        known = self._curves.get(trial.folder)
        if known is None or known[0] != stamp:
            known = self._curves[trial.folder] = (stamp, seed_curves(_metrics(trial.folder)))
        return known[1]

    def _verdict_events(
        self, trials: Sequence[TrialRecord], comparison: Comparison | None, tags: set[str]
    ) -> list[tuple[int, Any]]:
        from focalbench.tracking import summaries

        sweep = SweepFolder(self.folder)
        listed = sweep.listed()
        differs = {row["arm"]: row["differs"] for row in listed} or {trial.arm: {} for trial in trials}
        text = verdict_text(self.folder.resolve().name, trials, comparison, differs, sweep.command())
        return [
            (0, self._experiment(trials)),
            (0, summaries.margin_charts(_layout(tags, comparison.baseline if comparison is not None else None))),
            (0, summaries.text(VERDICT, text)),
        ]

    @cached_property
    def _read(self) -> TrialReader:
        return TrialReader(self.folder)

    def _experiment(self, trials: Sequence[TrialRecord]) -> Any:
        """The columns of HPARAMS, made once: TensorBoard takes the first that it meets and keeps them."""
        from focalbench.tracking import summaries

        if self._columns is None:
            sweep = SweepFolder(self.folder)
            of_plugins = sweep.plugin_schema()
            try:
                columns = columns_of(ExperimentConfig.model_json_schema(), of_plugins)
            except (AttributeError, KeyError, TypeError, RecursionError) as fault:
                raise DataError(f"{sweep.path / sweep.LIST}: plugin_schema is not a JSON Schema") from fault
            configs = self.configs if self.configs is not None else [trial.config for trial in trials if trial.config]
            self._columns = summaries.experiment(columns, ticked_columns(configs, columns))
        return self._columns

    def _replace(self, run: str, events: list[tuple[int, Any]]) -> None:
        from focalbench.tracking.event_file import replace_events

        digest = hashlib.sha256()
        for step, summary in events:
            digest.update(step.to_bytes(8, "big"))
            digest.update(summary.SerializeToString(deterministic=True))
        if self._written.get(run) != digest.digest():
            replace_events(self.folder / run, events)
            self._written[run] = digest.digest()

    def _remove(self, path: Path) -> None:
        from focalbench.tracking.event_file import remove_events

        remove_events(path)
        self._written.pop(f"{ARMS}/{path.name}", None)


@contextmanager
def kept_up_to_date(board: Board, report: Callable[[str], None]) -> Iterator[None]:
    """Within the block a thread keeps ``board`` up to date; at the block's end it is written once more.

    It takes so small a share of a core's time that no training notices, and whatever goes wrong with it goes to
    ``report``, once: no trial fails for its summary.
    """
    ended = threading.Event()
    told = False

    def update(wait_s: float = 0.0) -> float:
        nonlocal told
        began = time.thread_time()
        try:
            board.update(wait_s=wait_s)
        except Exception as fault:
            if not told:
                report(f"warning: TensorBoard's pages of the arms are not up to date: {_reason(fault)}")
            told = True
        return time.thread_time() - began

    def keep() -> None:
        import focalbench.tracking.summaries  # noqa: F401 - takes most of a second, once

        while not ended.wait(max(_LEAST_PAUSE_S, update() / _SHARE)):
            pass

    thread = threading.Thread(target=keep, name="board", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        update(wait_s=10.0)


def _reason(fault: Exception) -> str:
    return str(fault) if isinstance(fault, FocalbenchError | OSError) else f"{type(fault).__name__}: {fault}"


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), status.st_mtime_ns, status.st_size


def _metrics(trial: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none where it is damaged, which whoever trains the trial is told."""
    try:
        return read_metrics(trial)
    except DataError:
        return []


def _compare(trials: Sequence[TrialRecord]) -> Comparison | None:
    """The comparison so far; None before a trial has finished, and where mAP is undefined everywhere."""
    try:
        return compare_trials(trials, with_test_set_noise=False, with_exact=False)
    except FocalbenchError:
        return None


def _folder_name(arm: str) -> str:
    """The name of an arm's folder: its own, except that what tells two of one name apart may hold a path."""
    return arm.replace("/", "_")


def _labels(groups: Mapping[str, Mapping[int, TrialRecord]], comparison: Comparison | None) -> dict[str, str]:
    """What the comparison, which looks at finished trials alone, calls each arm."""
    results = comparison.arms if comparison is not None else ()
    known = {trial.folder: result.arm.label for result in results for trial in result.arm.trials.values()}
    labels: dict[str, str] = {}
    for arm, seeds in groups.items():
        if finished := [trial.folder for trial in seeds.values() if trial.folder in known]:
            labels[arm] = known[finished[0]]
    return labels


def _difference_bands(
    arms: Mapping[str, Mapping[int, SeedCurves]], labels: Mapping[str, str], comparison: Comparison | None
) -> Mapping[str, Band]:
    baseline = next((arm for arm, label in labels.items() if comparison and label == comparison.baseline), None)
    if comparison is None or baseline is None:
        return {}
    others = {arm: seeds for arm, seeds in arms.items() if arm != baseline}
    by_label = {entry.arm: entry.judgement for entry in comparison.comparisons if entry.judgement is not None}
    judgements = {arm: by_label[label] for arm, label in labels.items() if label in by_label}
    return difference_curves(others, arms[baseline], judgements, MEAN_AP)


def _arm_events(bands: Mapping[str, Band]) -> list[tuple[int, Any]]:
    from focalbench.tracking import summaries

    events = []
    for tag, band in bands.items():
        low, high = bounds(tag)
        for step, mean, half in zip(band.steps.tolist(), band.mean.tolist(), band.half_width.tolist(), strict=True):
            points = ((tag, mean), (low, mean - half), (high, mean + half))
            events += [(step, summaries.scalar(name, value)) for name, value in points]
    return sorted(events, key=lambda event: event[0])  # TensorBoard's fast loader wants rising steps


def _layout(tags: set[str], baseline: str | None) -> dict[str, dict[str, list[tuple[str, str, str]]]]:
    """The charts of the CUSTOM SCALARS page: mAP first, then each class, then the terms of the loss."""

    def charts(named: Mapping[str, str]) -> dict[str, list[tuple[str, str, str]]]:
        return {title: [(tag, *bounds(tag))] for tag, title in named.items() if tag in tags}

    classes = sorted(tag for tag in tags if tag.startswith(CLASS_AP))
    losses = ("train/loss", "train/cls", "train/box", "train/obj")
    return {
        "mAP, mean over the seeds and 95 % interval": charts(
            {MEAN_AP: "mAP", DIFFERENCE: f"mAP minus {baseline}'s, paired by seed"}
        ),
        "AP of each class": charts({tag: tag.removeprefix(CLASS_AP) for tag in classes}),
        "Loss terms (scales differ between losses)": charts({tag: tag.removeprefix("train/") for tag in losses}),
    }
