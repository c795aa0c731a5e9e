"""What was run and on what, in words, from result.json and config.yaml; where trials disagree, every value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from focalbench.records.reader import TrialRecord


def run_facts(
    finished: Sequence[TrialRecord],
    trials: Sequence[TrialRecord],
    classes: Sequence[str],
    objects_per_class: Mapping[str, int],
) -> list[tuple[str, str]]:
    """Returns (term, words) on data, protocol, detector, length and dates; what is not known is left out.

    Args:
        finished: trials that count.
        trials: all trials.
        classes: see :func:`class_names`.
        objects_per_class: countable objects of the test set.
    """
    counts = ", ".join(f"{name} {count}" for name, count in objects_per_class.items())
    ended = sorted(time for trial in finished if (time := ended_at(trial)))
    arms, seeds = {trial.arm for trial in finished}, {trial.seed for trial in finished if trial.seed is not None}
    rows = [
        (
            "Trials",
            f"{len(finished)} finished of {len(trials)}; {len(arms)} arm{'s'[: len(arms) != 1]}, seeds "
            f"{', '.join(map(str, sorted(seeds)))}",
        ),
        ("Trained on", _distinct(finished, lambda t: _split_words(t, "train", t.result.train_images))),
        ("Evaluated on", _distinct(finished, lambda t: _split_words(t, "val", t.result.val_images))),
        ("Classes", f"{len(classes)}: {', '.join(classes)}"),
        ("Test objects", counts and f"{sum(objects_per_class.values())} that count: {counts}"),
        ("Protocol", _distinct(finished, lambda t: t.result.protocol)),
        ("Detector", _distinct(finished, _detector_words)),
        ("Length", _distinct(finished, _length_words)),
        ("Data root", _distinct(finished, lambda t: _section(t, "data").get("root"))),
        ("Data fingerprint", _distinct(finished, lambda t: t.result.data_fingerprint)),
        ("Device", _distinct(finished, lambda t: _joined(t.result.device, t.result.precision))),
        ("Memory of the GPU", _gpu_memory_words(finished)),
        ("Trials ended", " to ".join(dict.fromkeys([ended[0], ended[-1]])) if ended else ""),
    ]
    return [(term, words) for term, words in rows if words]


def _split_words(trial: TrialRecord, key: str, num_images: int | None) -> str:
    data = _section(trial, "data")
    splits = data.get(key) or (trial.result.split if key == "val" else None)
    if data.get("name") == "synthetic":
        splits = f"generated shapes, {key}, seed {data.get('seed', 0)}"
    return _joined(
        as_text(splits) if splits else "",
        f"{num_images} image{'s'[: num_images != 1]}" if num_images is not None else "",
    )


def _detector_words(trial: TrialRecord) -> str:
    model, size = _section(trial, "model"), _section(trial, "data").get("image_size")
    sides = " x ".join(map(as_text, size)) if isinstance(size, list) else as_text(size)
    parameters = trial.result.num_parameters
    weights = model.get("weights")
    return _joined(
        model.get("name"),
        model.get("backbone"),
        f"weights {as_text(weights)}" if weights else "",
        f"{sides} px" if size else "",
        f"{parameters / 1e6:.2f} M parameters" if parameters else "",
    )


def _length_words(trial: TrialRecord) -> str:
    optim, steps = _section(trial, "optim"), trial.result.steps
    return _joined(
        f"{steps:g} steps" if steps else "",
        f"batch {as_text(optim['batch_size'])}" if "batch_size" in optim else "",
        optim.get("name"),
        f"learning rate {as_text(optim['lr'])}" if "lr" in optim else "",
        optim.get("schedule"),
    )


def _gpu_memory_words(finished: Sequence[TrialRecord]) -> str:
    found = [trial.result.gpu_memory_mb for trial in finished if trial.result.gpu_memory_mb is not None]
    return f"tensors of a trial took {max(found) / 1024:.1f} GiB at most" if found else ""


def class_names(finished: Sequence[TrialRecord]) -> list[str]:
    """Returns every class that a trial names, in the order of their labels."""
    names: dict[str, None] = {}
    for trial in finished:
        names |= dict.fromkeys([*(trial.result.classes or ()), *trial.result.class_ap])
    return list(names)


def environment(finished: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Returns (key, values) of what the trials ran on."""
    found = [trial.result.environment for trial in finished]
    keys = dict.fromkeys(key for environment in found for key in environment)
    return [(key, "; ".join(dict.fromkeys(as_text(e[key]) for e in found if key in e))) for key in keys]


def ended_at(trial: TrialRecord) -> str:
    """Tells when the trial last wrote its status, empty where nothing says it."""
    seconds = trial.status.time
    try:
        return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):  # no time that a calendar knows
        return ""


def _section(trial: TrialRecord, name: str) -> Mapping[str, Any]:
    section = trial.config.get(name)
    return section if isinstance(section, dict) else {}


def _distinct(trials: Sequence[TrialRecord], words: Callable[[TrialRecord], Any]) -> str:
    found = dict.fromkeys(as_text(value) for trial in trials if (value := words(trial)))
    return "; ".join(found)


def _joined(*parts: Any) -> str:
    return ", ".join(as_text(part) for part in parts if part)


def as_text(value: Any) -> str:
    """Returns a value of a configuration as a table shows it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and not any(isinstance(item, list | dict) for item in value):
        return ", ".join(as_text(item) for item in value)
    return json.dumps(value, ensure_ascii=False, default=str)
