"""A search's proposals: what the next arms should be, given how the earlier ones have done (extra ``search``).

There is no state but the results: a proposal is a function of the seed, of its number and of the arms before its batch.
So a search can be killed, moved or taken over by another process like any sweep.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from focalbench.config.schema import SearchConfig
from focalbench.config.sweep import rounded
from focalbench.errors import ConfigError
from focalbench.records.metrics import read_metrics
from focalbench.records.trial import TrialFolder
from focalbench.tags import MEAN_AP

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class ArmScore:
    """How a proposed arm has done.

    Attributes:
        values: what it sets, by key.
        score: mean over its seeds, higher is better; None where a seed failed or is undefined.
        stopped: whether it was stopped early; the score is that of the stop then.
    """

    values: Mapping[str, Any]
    score: float | None
    stopped: bool = False


def space_of(search: SearchConfig) -> str:
    """Returns eight hex digits: equal for searches whose proposals follow from each other's results."""
    plain = search.model_dump(mode="json", include={"seed", "params", "batch", "startup"})
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def require_optuna() -> None:
    """Refuses a search without Optuna before anything is trained: the first proposals are needed only when the rest of
    the sweep is done.

    Raises:
        ConfigError: when Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise ConfigError(
            "sweep.search: Optuna is not installed: pip install 'focalbench[search]', or use sweep.random"
        )


def propose(search: SearchConfig, history: Sequence[ArmScore]) -> list[dict[str, Any]]:
    """Returns the next ``search.batch`` arms after those of ``history``; the fewer before ``search.startup``, at
    random.

    Raises:
        ConfigError: when Optuna is not installed.
    """
    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution(*next(iter(entry.items()))) for key, entry in search.params.items()}
    # A stream of its own for each batch: proposals do not depend on how often they were asked for.
    digest = hashlib.sha256(f"{search.seed}/{len(history)}".encode()).digest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=int.from_bytes(digest[:4]),
            n_startup_trials=search.startup,
            multivariate=True,
            constant_liar=True,  # the arms of one batch keep apart
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([_as_trial(arm, search, space) for arm in history])
        asked = [study.ask(space).params for _ in range(search.batch)]
    return [{key: _value(params[key], entry) for key, entry in search.params.items()} for params in asked]


def score_at(trial: TrialFolder, share: float) -> float | None:
    """Returns the mAP of ``trial`` at its first evaluation after ``share`` of the training; None before it."""
    steps = trial.status().steps
    if steps is None:
        return None
    for line in read_metrics(trial.path):
        if line["step"] >= share * steps and MEAN_AP in line:
            return math.nan if line[MEAN_AP] is None else float(line[MEAN_AP])
    return None


def _distribution(kind: str, bounds: Sequence[Any]) -> BaseDistribution:
    from optuna import distributions

    if kind == "choice":  # by place: a choice may be a list or a schedule
        return distributions.CategoricalDistribution(range(len(bounds)))
    low, high = bounds
    if kind == "int_uniform":
        return distributions.IntDistribution(low, high)
    return distributions.FloatDistribution(low, high, log=kind == "log_uniform")


def _value(asked: Any, entry: Mapping[Any, Sequence[Any]]) -> Any:
    ((kind, bounds),) = entry.items()
    if kind == "choice":
        return bounds[asked]
    return asked if kind == "int_uniform" else rounded(asked, *bounds)


def _as_trial(arm: ArmScore, search: SearchConfig, space: dict[str, BaseDistribution]) -> FrozenTrial:
    """The arm as Optuna knows it; one without a score counts as worse than all others."""
    from optuna.trial import TrialState, create_trial

    params = {key: _asked(value, search.params[key]) for key, value in arm.values.items()}
    if arm.score is not None and not arm.stopped:
        return create_trial(params=params, distributions=space, value=arm.score)
    steps = {} if arm.score is None else {0: arm.score}
    return create_trial(params=params, distributions=space, state=TrialState.PRUNED, intermediate_values=steps)


def _asked(value: Any, entry: Mapping[Any, Sequence[Any]]) -> Any:
    """The inverse of :func:`_value`."""
    ((kind, bounds),) = entry.items()
    return [json.dumps(choice) for choice in bounds].index(json.dumps(value)) if kind == "choice" else value
