"""``clean``: frees the disk space that finished trials no longer need."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from focalbench import console
from focalbench.cli.compare import ResultPaths
from focalbench.errors import CheckpointError, StorageError
from focalbench.records.state import TrialState

_MB = 1e6


def clean(paths: ResultPaths) -> None:
    """Remove what finished trials no longer need; their networks stay. New ones do this by themselves."""
    from focalbench.records.reader import read_trials
    from focalbench.records.trial import TrialFolder
    from focalbench.training.checkpoint import keep_weights

    freed: Counter[Path] = Counter()
    num_done = 0
    for record in read_trials(paths):
        if record.state is not TrialState.DONE:
            continue
        num_done += 1
        trial = TrialFolder(record.folder)
        try:
            with trial.owned():
                freed[record.folder.parent] += keep_weights(trial.checkpoints)
        except (CheckpointError, StorageError) as fault:
            console.warn(str(fault))
    for sweep, num_bytes in freed.items():
        console.print_text(f"{sweep}: {num_bytes / _MB:.1f} MB freed")
    if not num_done:
        console.print_text("no finished trial: nothing to remove")
