"""From one configuration with a ``sweep`` to the trials it means: one file always means the same trials."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pydantic import BaseModel, Field

from focalbench.config.document import ConfigFault, Document, KeyPath, Mark, config_error, dotted
from focalbench.config.edit import assign, assignment_order
from focalbench.config.faults import BRANCHES, Schema, all_keys, check
from focalbench.config.identity import arm_hash, can_be_swept, config_hash
from focalbench.config.names import safe_text, shortened
from focalbench.config.own_parts import self_contained, sources_of
from focalbench.config.schema import MAX_TRIALS, ExperimentConfig, RandomConfig, SearchConfig, SweepConfig
from focalbench.plugins.source import PluginSource
from focalbench.statistics.looks import look_sizes, seed_sequence

_MAX_ARM = 80
"""Longest arm in a folder's name; a longer one is cut and told apart by a hash."""


class Trial(BaseModel, frozen=True, extra="forbid"):
    """One training of a sweep.

    Attributes:
        name: the trial's folder: arm, seed and hash, as in ``gamma=2-s0-754a7108``.
        arm: what the trial is compared as: its name without seed and hash.
        seed: of initial weights, batches and augmentation.
        config: the resolved configuration, without ``sweep``.
        hash: eight hex digits of what identifies the trial.
        differs: the swept keys, dotted, with this trial's values.
        plugins: sources of those that this trial makes use of.
        plugin_schema: JSON Schema of all that plugins add to the sweep's configurations; empty where there are none.
    """

    name: str
    arm: str
    seed: int
    config: ExperimentConfig
    hash: str
    differs: dict[str, Any]
    plugins: tuple[PluginSource, ...] = ()
    plugin_schema: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class _Point:
    """One arm before validation: where it stands in the sweep and what it sets."""

    origin: KeyPath
    values: dict[str, Any]
    origins: dict[str, KeyPath]
    label: str | None = None


@dataclass
class _Candidate:
    """One arm after validation; ``differs`` holds what the sweep sets for it, by dotted key."""

    point: _Point
    config: ExperimentConfig
    differs: dict[str, Any]
    label: str = ""


def first_seeds(config: ExperimentConfig) -> tuple[int, ...]:
    """Returns the seeds that every arm begins with: all there are, unless the sweep goes on until it is decided."""
    if config.sweep is not None and config.sweep.until is not None:
        return seeds_of_looks(config)[0]
    return _listed_seeds(config)


def seeds_of_looks(config: ExperimentConfig) -> tuple[tuple[int, ...], ...]:
    """Returns the seeds of each look at a sweep that goes on until it is decided, with those of the looks before."""
    listed, most = _listed_seeds(config), (config.sweep or SweepConfig()).max_seeds
    sequence = seed_sequence(listed, most)
    return tuple(sequence[:size] for size in look_sizes(len(listed), most))


def _listed_seeds(config: ExperimentConfig) -> tuple[int, ...]:
    """The seeds that the sweep names, or the experiment's own."""
    listed = config.sweep.seeds if config.sweep is not None else None
    return listed if isinstance(listed, tuple) else (config.seed,)


def expand(
    config: ExperimentConfig,
    document: Document | None = None,
    *,
    proposals: Sequence[Mapping[str, Any]] = (),
    seeds: Sequence[int] | None = None,
) -> tuple[Trial, ...]:
    """Returns all trials of ``config``, arm by arm, each arm's seeds together; one trial where there is no sweep.

    Args:
        config: a validated configuration.
        document: what it was read from, for places in error messages.
        proposals: what the arms of ``sweep.search`` set, as far as they are known; without any, a sweep that is nothing
            but a search has no trials yet.
        seeds: of every arm; None takes those that it begins with.

    Raises:
        ConfigError: all faulty entries of the sweep at once; or no trial is left, or too many are.
    """
    places = document if document is not None else Document({})
    sweep = config.sweep or SweepConfig()
    base = Document(config.model_dump(mode="json", exclude_unset=True, exclude={"sweep"}))
    for branch in BRANCHES:
        base.data.setdefault(branch, {})["name"] = getattr(config, branch).name
    base.keys, base.values, base.schema = dict(places.keys), dict(places.values), type(config)
    points, faults = _points(sweep)
    seeds = seeds if seeds is not None else first_seeds(config)
    num_arms = len(points) + (sweep.search.num if sweep.search is not None else 0)
    points += [_search_point(values) for values in proposals]
    most = sweep.max_seeds if sweep.until is not None else len(seeds)
    if num_arms * most > MAX_TRIALS:
        points = []
        faults.append(ConfigFault(("sweep",), f"asks for more than {MAX_TRIALS} trials"))
    candidates, broken = _candidates(base, points)
    faults += broken + _exclude_faults(sweep, type(config))
    faults = faults or _search_faults(config, base)
    if faults:
        raise config_error([ConfigFault(f.path, f.reason, f.mark or places.mark(f.path), f.on_key) for f in faults])
    _set_labels(candidates, config, set(sweep.search.params) if sweep.search is not None else set())
    if faults := _namesakes(candidates):
        raise config_error([replace(fault, mark=places.mark(fault.path)) for fault in faults])
    trials = _trials(candidates, seeds, sweep)
    if not trials and sweep.search is None:
        fault = ConfigFault(("sweep",), "no trial is left: exclude removes them all", places.mark(("sweep",)))
        raise config_error([fault])
    if sweep.until is not None and len({trial.arm for trial in trials}) < 2:
        path: KeyPath = ("sweep", "until")
        raise config_error(
            [
                ConfigFault(
                    path, "needs at least two arms: a single one has nothing to be compared with", places.mark(path)
                )
            ]
        )
    return trials


def _points(sweep: SweepConfig) -> tuple[list[_Point], list[ConfigFault]]:
    """Return the arms of all blocks in their order; one empty arm where there is no block."""
    points: list[_Point] = []
    faults: list[ConfigFault] = []
    if sweep.grid is not None:
        keys = list(sweep.grid)
        if math.prod(len(values) for values in sweep.grid.values()) > MAX_TRIALS:
            return [], [ConfigFault(("sweep", "grid"), f"asks for more than {MAX_TRIALS} trials")]
        for indices in product(*(range(len(values)) for values in sweep.grid.values())):
            points.append(_block_point("grid", sweep.grid, dict(zip(keys, indices, strict=True))))
    if sweep.zip is not None:
        lengths = {key: len(values) for key, values in sweep.zip.items()}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            faults.append(ConfigFault(("sweep", "zip"), f"should list equally many values for every key; {text}"))
        else:
            length = next(iter(lengths.values()))
            points += [_block_point("zip", sweep.zip, dict.fromkeys(sweep.zip, index)) for index in range(length)]
    for index, entry in enumerate(sweep.list):
        origin: KeyPath = ("sweep", "list", index)
        label = entry.get("name")
        if label is not None and (not isinstance(label, str) or not label.strip()):
            faults.append(ConfigFault((*origin, "name"), "should be text: it names the arm"))
            label = None
        values = {key: value for key, value in entry.items() if key != "name"}
        points.append(_Point(origin, values, {key: (*origin, key) for key in values}, label))
    if sweep.random is not None:
        faults += _distribution_faults("random", sweep.random)
        if not faults:
            points += _draws(sweep.random)
    searched = {}
    if sweep.search is not None:
        faults += _distribution_faults("search", sweep.search)
        searched = _search_point(sweep.search.params).origins
    for key, origin in (searched | {key: place for point in points for key, place in point.origins.items()}).items():
        if key == "seed" or not can_be_swept(key):
            advice = "use sweep.seeds" if key == "seed" else "it is the same for all trials"
            faults.append(ConfigFault(origin, f"'{key}' cannot be swept: {advice}", on_key=True))
    empty = not points and not faults and sweep.search is None
    return ([_Point(("sweep",), {}, {})] if empty else points), faults


def _block_point(block: str, table: dict[str, tuple[Any, ...]], indices: dict[str, int]) -> _Point:
    values = {key: table[key][index] for key, index in indices.items()}
    return _Point(("sweep", block), values, {key: ("sweep", block, key, index) for key, index in indices.items()})


def _search_point(values: Mapping[str, Any]) -> _Point:
    return _Point(("sweep", "search"), dict(values), {key: ("sweep", "search", "params", key) for key in values})


def extreme_proposals(search: SearchConfig) -> list[dict[str, Any]]:
    """Lists proposals, each the values of all searched keys, that between them take both ends of every range and every
    choice.

    A search makes its proposals while it runs. What would be wrong with one of them is wrong with one of these in most
    cases, so these are checked before the first training.
    """
    ends = {key: next(iter(distribution.values())) for key, distribution in search.params.items()}
    most = max(len(values) for values in ends.values())
    return [{key: values[min(index, len(values) - 1)] for key, values in ends.items()} for index in range(most)]


def _search_faults(config: ExperimentConfig, base: Document) -> list[ConfigFault]:
    """Find what would be wrong with arms that the search may propose later."""
    search = config.sweep.search if config.sweep is not None else None
    if search is None:
        return []
    faults = _candidates(base, [_search_point(values) for values in extreme_proposals(search)])[1]
    if search.stop_at is not None and config.eval.every is None:
        faults.append(ConfigFault(("sweep", "search", "stop_at"), "needs evaluations before the end: set eval.every"))
    return faults


def _distribution_faults(name: str, block: RandomConfig | SearchConfig) -> list[ConfigFault]:
    faults = []
    for key, distribution in block.params.items():
        ((kind, bounds),) = distribution.items()
        path: KeyPath = ("sweep", name, "params", key, kind)
        if kind == "choice":
            if not bounds:
                faults.append(ConfigFault(path, "should list at least one value"))
            faults += [
                ConfigFault((*path, index), "should be finite")
                for index, value in enumerate(bounds)
                if not _is_finite(value)
            ]
            continue
        whole = kind == "int_uniform"
        allowed = int if whole else (int, float)
        if len(bounds) != 2 or any(isinstance(bound, bool) or not isinstance(bound, allowed) for bound in bounds):
            faults.append(ConfigFault(path, f"should be [low, high], two {'whole ' if whole else ''}numbers"))
        elif not all(math.isfinite(bound) for bound in bounds) or bounds[0] > bounds[1]:
            faults.append(ConfigFault(path, f"should be [low, high] with low at most high, not {list(bounds)}"))
        elif kind == "log_uniform" and bounds[0] <= 0:
            faults.append(ConfigFault(path, f"should be above 0 on a logarithmic scale, not {bounds[0]:g}"))
    return faults


def _draws(block: RandomConfig) -> Iterator[_Point]:
    """Draw the arms of ``sweep.random``, each from generators of its own: a larger ``num`` keeps the earlier draws."""
    for index in range(block.num):
        values = {}
        for key, distribution in block.params.items():
            # A stream per key as well, so that one more parameter leaves the others' values alone.
            stream = random.Random(f"{block.seed}/{index}/{key}")
            ((kind, bounds),) = distribution.items()
            values[key] = _draw(stream, kind, bounds)
        yield _Point(("sweep", "random"), values, {key: ("sweep", "random", "params", key) for key in values})


def _draw(stream: random.Random, kind: str, bounds: tuple[Any, ...]) -> Any:
    if kind == "choice":
        return stream.choice(bounds)
    low, high = bounds
    if kind == "int_uniform":
        return stream.randint(low, high)
    if kind == "uniform":
        value = stream.uniform(low, high)
    else:
        value = math.exp(stream.uniform(math.log(low), math.log(high)))
    return rounded(value, low, high)


def rounded(value: float, low: float, high: float) -> float:
    """Rounds ``value`` to six digits, within [low, high]: what a name can show and a reader can retype."""
    return min(max(float(f"{value:.6g}"), low), high)


def _candidates(base: Document, points: list[_Point]) -> tuple[list[_Candidate], list[ConfigFault]]:
    candidates: list[_Candidate] = []
    faults: list[ConfigFault] = []
    for point in points:
        trial = base.copy()
        broken = _apply(trial, point, base)
        if not broken:
            outcome = check(trial)
            if isinstance(outcome, ExperimentConfig):
                candidates.append(_Candidate(point, outcome, _flat(point.values)))
                continue
            broken = outcome
        faults += [_at_origin(fault, point) for fault in broken]
    return candidates, faults


def _apply(trial: Document, point: _Point, base: Document) -> list[ConfigFault]:
    faults: list[ConfigFault] = []
    for key, value in sorted(point.values.items(), key=lambda item: assignment_order(tuple(item[0].split(".")))):
        origin = point.origins[key]
        size = len(origin)
        inner = {known[size:]: place for known, place in base.values.items() if known[:size] == origin}
        keys = {known[size:]: place for known, place in base.keys.items() if known[:size] == origin != known}
        places = Document({}, keys, {(): base.mark(origin) or Mark(dotted(origin))} | inner)
        fault = assign(trial, tuple(key.split(".")), json.loads(json.dumps(value)), places)
        faults += [fault] if fault else []
    return faults


def _at_origin(fault: ConfigFault, point: _Point) -> ConfigFault:
    """Turn the fault of a trial into one of the sweep's entry that caused it."""
    for key, origin in point.origins.items():
        path = tuple(key.split("."))
        if fault.path[: len(path)] == path:
            inner = fault.path[len(path) :]
            if fault.on_key and not inner:
                depth = 3 if origin[1] in ("grid", "zip") else 4
                return ConfigFault(origin[:depth], fault.reason, None, on_key=True)
            return ConfigFault((*origin, *inner), fault.reason, fault.mark, fault.on_key)
    what = ", ".join(f"{key}: {value}" for key, value in point.values.items())
    return ConfigFault(point.origin, f"with {what}: {dotted(fault.path)}: {fault.reason}" if what else fault.reason)


def _exclude_faults(sweep: SweepConfig, schema: Schema) -> list[ConfigFault]:
    """Find keys and values of ``exclude`` that no trial can have."""
    faults = []
    for index, entry in enumerate(sweep.exclude):
        for key, value in _flat(entry).items():
            path = ("sweep", "exclude", index, key)
            if key not in all_keys(schema):
                faults.append(ConfigFault(path, "unknown key", on_key=True))
            elif not _is_finite(value):
                faults.append(ConfigFault(path, "should be finite"))
    return faults


def _is_finite(value: Any) -> bool:
    """Tell whether no number in ``value`` is NaN or infinite: no key takes those, and JSON has no word for them."""
    if isinstance(value, dict | list | tuple):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Return ``entry`` with nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict) and value and key.split(".")[0] in {*BRANCHES, "eval"} and "schedule" not in value:
            flat |= _flat({f"{key}.{inner}": deeper for inner, deeper in value.items()})
        else:
            flat[key] = value
    return flat


def _namesakes(candidates: Sequence[_Candidate]) -> list[ConfigFault]:
    """Find arms of the list that have names of their own and one configuration: only the first would be trained."""
    faults = []
    owner: dict[str, str] = {}
    for candidate in candidates:
        if candidate.point.label is None:
            continue
        digest = arm_hash(candidate.config, candidate.differs)
        known = owner.setdefault(digest, candidate.label)
        if known != candidate.label:
            reason = f"is the arm {known!r} once more, key by key: an arm is trained once; leave one of them out"
            faults.append(ConfigFault((*candidate.point.origin, "name"), reason))
    return faults


def _trials(candidates: list[_Candidate], seeds: Sequence[int], sweep: SweepConfig) -> tuple[Trial, ...]:
    trials: dict[str, Trial] = {}
    plugin_schema = dict(candidates[0].config.plugin_schema) if candidates else {}
    for candidate in candidates:
        plugins, resolved = sources_of(candidate.config), self_contained(candidate.config)
        for seed in seeds:
            config = resolved.model_copy(update={"seed": seed})
            digest = config_hash(config, candidate.differs)
            if digest in trials or any(_agrees(config, entry) for entry in sweep.exclude):
                continue
            arm = candidate.label
            name = f"{arm}-s{seed}-{digest}"
            trials[digest] = Trial(
                name=name,
                arm=arm,
                seed=seed,
                config=config,
                hash=digest,
                differs=candidate.differs,
                plugins=plugins,
                plugin_schema=plugin_schema,
            )
    return tuple(trials.values())


def _agrees(config: ExperimentConfig, entry: dict[str, Any]) -> bool:
    data = config.model_dump(mode="json")
    missing = object()
    for key, wanted in _flat(entry).items():
        here: Any = data
        for part in key.split("."):
            here = here.get(part, missing) if isinstance(here, dict) else missing
        if here is missing or isinstance(here, bool) != isinstance(wanted, bool) or here != wanted:
            return False
    return True


def _set_labels(candidates: list[_Candidate], config: ExperimentConfig, searched: set[str]) -> None:
    """Give every candidate its arm: what it sets, as short as is unambiguous; different arms never share one.

    Args:
        searched: keys that later candidates will set: they must not change the labels of these.
    """
    keys = searched | {key for candidate in candidates for key in candidate.differs}
    short = {key: _short_key(key, keys) for key in keys}
    owner: dict[str, str] = {}
    for candidate in candidates:
        point = candidate.point
        if point.label is not None:
            text = point.label
        elif point.values:
            text = "-".join(f"{short[key]}={_value_text(value)}" for key, value in candidate.differs.items())
        else:
            text = config.loss.name
        digest = arm_hash(candidate.config, candidate.differs)
        label = "-".join(filter(None, (part.strip("_.") for part in safe_text(text).split("-")))) or "arm"
        if shortened(label, _MAX_ARM) != label:
            label = f"{shortened(label, _MAX_ARM - 5).rstrip('-_.')}-{digest[:4]}"
        if owner.setdefault(label, digest) != digest:
            label = f"{label}-{digest[:4]}"
        candidate.label = label


def _short_key(key: str, keys: set[str]) -> str:
    """Return the last part of ``key`` (a variant's name: its section); the whole key where another one ends alike."""

    def last(full: str) -> str:
        parts = full.split(".")
        return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]

    return last(key) if sum(last(other) == last(key) for other in keys) == 1 else key


def _value_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        return "+".join(_value_text(item) for item in value)
    if isinstance(value, dict):
        return "_".join(_value_text(item) for item in value.values())
    return str(value)
