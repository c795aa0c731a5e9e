"""The whole configuration: every key with default, range and documentation. Defaults live here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from focalbench.config.base import Count, Digest, Fraction, Section, SeedNumber, key_error
from focalbench.config.data import DataConfig, VocData
from focalbench.config.loss import FocalConfig, LossConfig
from focalbench.config.model import ModelConfig, RetinaNetConfig
from focalbench.config.names import check_folder_name
from focalbench.config.optim import OptimConfig, SgdConfig
from focalbench.plugins.source import PluginSource
from focalbench.statistics.looks import FIRST_LOOK, MOST_SEEDS
from focalbench.tags import PROTOCOL_MEANING, ProtocolName

MAX_TRIALS = 10_000
"""More than this is a mistake in the sweep, not an experiment."""


class EvalConfig(Section):
    """When and how detections are scored."""

    every: Annotated[int, Field(ge=1, le=1_000_000)] | None = 1
    """Epochs between two evaluations, also with `optim.steps`. null: only at the end. The end is always evaluated."""
    protocol: ProtocolName = Field("voc07", description=PROTOCOL_MEANING)
    score_thresh: Fraction = 0.05
    """Detections with a lower score are dropped before NMS."""
    nms_thresh: Fraction = 0.5
    """IoU above which NMS drops the lower of two boxes of one class."""
    top_k: Count = 1000
    """How many of the highest scores of each pyramid level reach NMS."""
    max_detections: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Detections kept per image after NMS."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Images evaluated at once. null: the training's."""


class PluginTracker(Section, extra="allow"):
    """A tracker of a plugin, as a trial keeps it: its further keys were checked where the plugin was at hand."""

    name: Annotated[str, Field(min_length=1)]
    """Which tracker."""
    source: Digest
    """Digest of the plugin's source."""


def _refuse_name(value: Any) -> Any:
    """A tracker of which nothing is known but its name."""
    if isinstance(value, dict) and "source" in value:
        return value
    if isinstance(value, PluginTracker):
        return value
    raise ValueError("no such tracker, and nothing in `plugins` provides it")


class RunConfig(Section):
    """Where and how trials run. Of these keys only `threads` is part of a trial's identity."""

    launcher: Literal["local", "ray"] = "local"
    """What starts the trials: `local`, processes on this machine; `ray`, a Ray cluster (needs the extra `ray`)."""
    ray_address: Annotated[str, Field(min_length=1, max_length=300)] | None = None
    """HOST:PORT of a running Ray cluster, or `auto` for the one that this machine belongs to. null: RAY_ADDRESS, else a
    cluster of this machine alone."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")] = "auto"
    """`auto`: all GPUs of the machine, one trial on each; without a GPU, the processor. `cuda`: the same, but an error
    if there is no GPU. `cuda:N` uses that GPU only, `cpu` the processor only."""
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    """GPUs (on a CPU: processes) of one machine that train a trial together, each on its share of every batch."""
    trials_per_device: Annotated[int, Field(ge=1, le=64)] = 1
    """Trials that share one GPU. On a CPU the cores decide: see `threads`."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of each process that trains on a CPU, alone or in a sweep, on few cores or many. A different number sums
    in a different order, which rounds differently, and so makes a different trial. As many trials run side by side
    as the cores allow (`devices` x `threads` each); more than 1 pays off if a sweep has fewer trials than the machine
    has cores. On a GPU all cores are shared out, and no result depends on this key."""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a trial whose process died is started again, from its checkpoint."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2
    """How many of the newest checkpoints are kept, besides the best one."""
    checkpoint_every: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Seconds between two checkpoints; each evaluation writes one too."""
    on_divergence: Literal["stop", "retry"] = "stop"
    """When the loss or a gradient is not finite: stop the trial, or resume from the last good checkpoint at half the
    learning rate (marked in every comparison)."""
    log_every: Count = 10
    """Steps between two logged lines."""
    cuda_graph: bool = False
    """On a GPU, record the training step and launch it as one (where one device trains a trial): saves the processor's
    time if steps are short. Same arithmetic; a step that cannot be recorded runs normally, with a warning."""
    trackers: tuple[
        Annotated[PluginTracker, BeforeValidator(_refuse_name), WithJsonSchema({"type": "string"})], ...
    ] = ()
    """What each trial reports to besides metrics.jsonl and TensorBoard: trackers of plugins, each by its name or as
    {name: ..., key: value}."""
    deterministic: bool = False
    """Bit-identical repeats on a GPU, at some cost in speed. On a CPU repeats are always bit-identical."""


Distribution = Annotated[
    dict[Literal["uniform", "log_uniform", "choice", "int_uniform"], tuple[Any, ...]], Field(min_length=1, max_length=1)
]


class RandomConfig(Section):
    """Trials drawn at random. Draw i depends on `seed` and i only: a larger `num` keeps the earlier draws."""

    num: Annotated[int, Field(ge=1, le=MAX_TRIALS)]
    """Number of draws."""
    seed: SeedNumber = 0
    """Seed of the draws."""
    params: Annotated[dict[str, Distribution], Field(min_length=1)]
    """Per key one of {uniform: [low, high]}, {log_uniform: [low, high]}, {int_uniform: [low, high]} (both ends
    included) or {choice: [...]}."""


class SearchConfig(Section):
    """Arms proposed by Optuna's TPE (arXiv:2304.11127) from the results of earlier ones; needs the extra `search`.
    They follow from `seed` and those results alone: the same command resumes a search, and a larger `num`
    extends it."""

    num: Annotated[int, Field(ge=1, le=MAX_TRIALS)]
    """Number of arms."""
    seed: SeedNumber = 0
    """Seed of the proposals."""
    params: Annotated[dict[str, Distribution], Field(min_length=1)]
    """What is searched, per key as in `sweep.random`. The goal is the highest `val/mAP`, mean over the seeds."""
    batch: Annotated[int, Field(ge=1, le=1000)] = 4
    """Arms proposed at once. The next ones wait for all of them, so that proposals do not depend on the number of
    devices."""
    startup: Annotated[int, Field(ge=1, le=MAX_TRIALS)] = 8
    """Arms drawn at random before results count."""
    stop_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training after which an arm is stopped, all its seeds at once, when its mean mAP is below the median
    of all proposed arms at that point; it is then marked as not comparable. null: every arm is trained to its end."""


Values = Annotated[tuple[Any, ...], Field(min_length=1, max_length=MAX_TRIALS)]
KeyValues = Annotated[dict[str, Values], Field(min_length=1)]
Assignments = Annotated[dict[str, Any], Field(min_length=1)]


_NumSeeds = Annotated[int, Field(ge=1, le=MAX_TRIALS)]
_SeedList = Annotated[tuple[SeedNumber, ...], Field(min_length=1, max_length=MAX_TRIALS)]


def _counted_out(value: int | tuple[int, ...] | None) -> tuple[int, ...] | None:
    """6 as the seeds 0 to 5."""
    return tuple(range(value)) if isinstance(value, int) else value


class SweepConfig(Section):
    """The trials: the union of the blocks, each crossed with the seeds, without repeats. Arms of `list` with names of
    their own must differ in what they set."""

    seeds: Annotated[_NumSeeds | _SeedList | None, AfterValidator(_counted_out)] = None
    """Seeds that every arm is trained with: a list, or how many, counted from 0. null: `seed` alone. With `until` these
    are the first seeds; further ones count on from the largest."""
    until: Literal["decided"] | None = None
    """`decided`: seeds are added, a few at a time, until every arm is found better, worse, practically alike or
    unstable, or has `max_seeds`; such an arm gets no more seeds, but the baseline does. Declared before the first
    look, and fixed from then on. null: exactly the seeds listed."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest difference in mAP that does not matter in practice (0.01: one point): a difference shown to be
    smaller is called no practical difference."""
    max_seeds: Annotated[int, Field(ge=FIRST_LOOK, le=MOST_SEEDS)] = 20
    """The most seeds an arm is given, with `until: decided`."""
    grid: KeyValues | None = None
    """Every combination of the values listed per key, as in {loss.gamma: [0, 1, 2]}."""
    zip: KeyValues | None = None
    """Values taken side by side: lists of equal length, one per key."""
    list: tuple[Assignments, ...] = ()
    """Arms written out: each sets keys (`loss.gamma: 2`) or replaces whole branches (`loss: {name: ce}`); `name` names
    the arm."""
    random: RandomConfig | None = None
    """Arms drawn at random."""
    search: SearchConfig | None = None
    """Arms that follow from the results of others."""
    exclude: tuple[Assignments, ...] = ()
    """Trials left out: those that agree with all keys of one of these entries."""

    @model_validator(mode="after")
    def _until_fits(self) -> SweepConfig:
        if self.until is None:
            return self
        if self.search is not None:
            raise key_error("until", "cannot be combined with sweep.search, which stops arms in its own way")
        seeds = self.seeds if isinstance(self.seeds, tuple) else ()
        if len(seeds) > self.max_seeds:
            raise key_error("max_seeds", f"should be at least the {len(seeds)} seeds listed, not {self.max_seeds}")
        if len(set(seeds)) < len(seeds):
            raise key_error("seeds", "should list each seed only once with `until`")
        return self


class ExperimentConfig(Section):
    """One experiment: a trial, or all trials of its sweep."""

    plugin_sources: ClassVar[Mapping[str, PluginSource]] = {}
    """Sources of the plugins that add to this schema, by digest: see ``plugin_sections.schema_with``."""
    plugin_schema: ClassVar[Mapping[str, Any]] = {}
    """JSON Schema of what they add, and of nothing else."""

    name: Annotated[
        str,
        AfterValidator(check_folder_name),
        WithJsonSchema({"type": "string", "pattern": r"^[^\s/\\._+=-][^\s/\\]*$"}),
    ] = "experiment"
    """Name of the folder below `runs/`: letters and digits of any script, and `.`, `_`, `+`, `=`, `-`. If left out: the
    name of the file."""
    base: str | None = Field(None, exclude=True)
    """Another file that this one builds on, relative to this one's folder. What is written here replaces what stands
    there key by key; lists and the mappings of a sweep's keys are replaced as a whole, and `name` is not taken over."""
    seed: SeedNumber = 0
    """Seed of initial weights, batches and augmentation: the same for all arms, which makes them paired."""
    plugins: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = ()
    """Sources of your own losses, backbones, detectors or trackers: paths of Python files, or names of installed
    modules. They are executed where trials are trained, and nowhere else."""
    data: DataConfig = VocData()
    """The images."""
    model: ModelConfig = RetinaNetConfig()
    """The detector."""
    loss: LossConfig = FocalConfig()
    """The classification loss."""
    optim: OptimConfig = SgdConfig()
    """Optimizer, learning rate and length of the training."""
    eval: EvalConfig = EvalConfig()
    """Evaluation."""
    run: RunConfig = RunConfig()
    """Where and how trials run."""
    sweep: SweepConfig | None = None
    """Trials to compare. null: one trial."""

    @model_validator(mode="after")
    def _batch_divides(self) -> ExperimentConfig:
        size, devices = self.optim.batch_size, self.run.devices
        if size % devices:
            raise key_error("optim.batch_size", f"should be a multiple of run.devices ({devices}), not {size}")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> ExperimentConfig:
        model, multiple = self.model, self.model.canvas_multiple
        sides = (self.data.image_size,) if isinstance(self.data.image_size, int) else self.data.image_size
        if any(side % multiple for side in sides):
            reason = f"should be a multiple of {multiple} for {model.name}, not {list(sides)}"
            raise key_error("data.image_size", reason)
        if self.loss.apply_to != "class" and not model.has_objectness:
            reason = f"'{self.loss.apply_to}' needs model yolov2: {model.name} has no objectness"
            raise key_error("loss.apply_to", reason)
        return self
