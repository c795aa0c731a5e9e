"""A trained trial from its folder alone: configuration, newest good checkpoint, network ready to be asked.

Nothing of the data set is needed: classes and canvas come from the checkpoint and the configuration beside it. The
folder may have been moved or renamed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from focalbench.config.dump import resolved
from focalbench.config.identity import keeps_network
from focalbench.config.load import read_config
from focalbench.config.own_parts import digests_in
from focalbench.config.paths import data_root
from focalbench.config.schema import ExperimentConfig
from focalbench.data.dataset import DetectionData, load_data
from focalbench.data.images import Fit
from focalbench.data.sixteen_bit import SampleRange
from focalbench.data.voc import ClassRule
from focalbench.devices import available_precision, resolve_device, use_device
from focalbench.errors import CheckpointError, ConfigError, DataError, FocalbenchError
from focalbench.experiment import build
from focalbench.experiment.build_loss import build_criterion
from focalbench.experiment.locations import cache_dir, canvas_size, class_rule, data_location, sample_range
from focalbench.losses.criterion import Criterion
from focalbench.models.detector import Detector
from focalbench.plugins.loading import load_plugins
from focalbench.plugins.source import read_source
from focalbench.records.result import TrialResult
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder
from focalbench.storage import START_ANEW
from focalbench.tracking.hparams import flatten
from focalbench.training.checkpoint import load_newest
from focalbench.training.evaluate import DetectionSettings, FlatArrays, detect

_MAX_LISTED = 5


@dataclass(frozen=True)
class TrainedTrial:
    """A network as a trial left it.

    Attributes:
        folder: where it was found.
        config: of the trial.
        model: on ``device``, in evaluation mode; the averaged weights where the trial averaged.
        own_criterion: see ``criterion``; None where the loss is of a plugin that was not executed.
        classes: names in label order.
        canvas: (height, width) of the network's input, pixels.
        fit: how an image meets the canvas.
        step: finished training steps.
        settings: which boxes count as detections.
        device, precision: where and in which arithmetic ``model`` runs.
        result: empty for a trial that is not finished.
    """

    folder: Path
    config: ExperimentConfig
    model: Detector
    own_criterion: Criterion | None
    classes: tuple[str, ...]
    canvas: tuple[int, int]
    fit: Fit
    step: int
    settings: DetectionSettings
    device: torch.device
    precision: torch.dtype
    result: TrialResult

    @property
    def name(self) -> str:
        """The trial's name as it was trained, whatever its folder is called now."""
        return self.result.trial or self.folder.resolve().name

    @property
    def sample_range(self) -> SampleRange | None:
        """How 16-bit samples became 8-bit ones."""
        return sample_range(self.config)

    @property
    def criterion(self) -> Criterion:
        """The training's, with the state of its last step (matching, gamma, alpha, weight).

        Raises:
            ConfigError: where the loss is of a plugin that was not executed.
        """
        if self.own_criterion is None:
            raise ConfigError(_needs_plugin(TrialFolder(self.folder), self.config, "loss"))
        return self.own_criterion

    def data(
        self, *, root: Path | None = None, splits: Sequence[str] | None = None, ignore_other_classes: bool = False
    ) -> DetectionData:
        """Returns images of ``splits`` (default: the trial's own evaluation splits) on the network's canvas.

        Args:
            root: the folder that holds VOC2007, ...; None: the trial's ``data.root``, else $FOCALBENCH_DATA.
            splits: ``YEAR/SPLIT`` each.
            ignore_other_classes: leave out objects of classes that the network does not know, as ``data.other_classes``
                can have it.

        Raises:
            ConfigError: without a root.
            DataError: for faults of the data set, a class that the network does not know among them.
        """
        where, val_splits = _location(self.config, root, own_splits=splits is None)
        return load_data(
            where,
            tuple(splits) if splits is not None else val_splits,
            self.classes,
            image_size=self.canvas,
            fit=self.fit,
            cache=self.config.data.cache,
            cache_dir=cache_dir(self.config),
            rule=ClassRule(ignore=ignore_other_classes or class_rule(self.config).ignore, trained=True),
            sample_range=self.sample_range,
        )

    def detect(self, data: DetectionData) -> FlatArrays:
        """Returns all detections on ``data``, by the settings of the training's own evaluation."""
        return detect(self.model, data, self.settings, device=self.device, precision=self.precision)


def load_trained(
    folder: Path,
    *,
    device: str = "auto",
    unfinished: bool = False,
    plugins: Sequence[str] = (),
    warn: Callable[[str], None] = warnings.warn,
) -> TrainedTrial:
    """Returns the network in ``folder``, a trial or a run with one trial.

    Nothing that lies in the folder is executed. What a plugin brought to the training is not needed, unless it is the
    network itself, or the loss is asked.

    Args:
        plugins: files or modules that may be executed: the source of plugins that the trial was trained with.
        device: auto | cpu | cuda | cuda:N.
        unfinished: take the newest checkpoint of a trial that is not finished.
        warn: told about damaged checkpoints that were passed over.

    Raises:
        DataError: when the folder is no trial, or the trial is not finished.
        ConfigError: when its config.yaml is damaged, the device is not there, or the network is a plugin's whose
            source was not given.
        CheckpointError: when no checkpoint is whole or it does not fit the configuration.
    """
    files = TrialFolder(find_trial(folder))
    folder = files.path
    config = read_config(files.config)
    result = _result(files, unfinished)
    checkpoint = _checkpoint(files.checkpoints, warn)
    _require_unchanged(config, checkpoint["config"], folder)
    known = _execute(files, config, plugins)
    where = resolve_device(device)
    use_device(where)
    classes = tuple(checkpoint["classes"])
    try:
        model = build.build_model(config, len(classes), pretrained=False)
        model.load_state_dict(_weights(checkpoint))
        criterion = None
        if known.issuperset(digests_in(config, "loss")):
            criterion = build_criterion(config, model)
            criterion.load_state_dict(checkpoint["criterion"])
            criterion = criterion.to(where).eval()
    except (RuntimeError, ValueError, KeyError, TypeError) as fault:
        first = str(fault).strip().splitlines()[0]
        raise CheckpointError(f"{folder}: the checkpoint does not fit {files.config.name}: {first}") from fault
    memory_format = torch.channels_last if config.optim.channels_last else torch.contiguous_format
    return TrainedTrial(
        folder=folder,
        config=config,
        model=model.to(where).to(memory_format=memory_format).eval(),
        own_criterion=criterion,
        classes=classes,
        canvas=canvas_size(config),
        fit=config.data.fit,
        step=int(checkpoint["step"]),
        settings=build.detection_settings(config),
        device=where,
        precision=available_precision(config.optim.precision, where),
        result=result,
    )


def _execute(files: TrialFolder, config: ExperimentConfig, plugins: Sequence[str]) -> set[str]:
    """Executes what the user has named, if it is what the trial was trained with; returns the digests.

    Raises:
        ConfigError: for another source, or where the network's is missing.
        PluginError: for one that cannot be read or executed.
    """
    sources = [read_source(entry) for entry in plugins]
    for source in sources:
        if source.digest not in digests_in(config, "model", "loss"):
            kept = f"; those are in {files.plugins}" if files.plugins.is_dir() else ""
            raise ConfigError(f"--plugin {source.origin}: is not a source that the trial was trained with{kept}")
    known = {source.digest for source in sources}
    if not known.issuperset(digests_in(config, "model")):
        raise ConfigError(_needs_plugin(files, config, "model"))
    load_plugins(sources)
    return known


def _needs_plugin(files: TrialFolder, config: ExperimentConfig, branch: str) -> str:
    """Says that the code of a plugin is needed, and how to allow it."""
    (digest, *_), what = digests_in(config, branch), "network" if branch == "model" else "loss"
    kept = files.kept_plugin(digest)
    return (
        f"{files.path}: its {what} is a plugin's, whose code is not executed unasked: pass --plugin "
        f"{kept or 'FILE'}, once you know what is in it"
    )


def find_trial(folder: Path) -> Path:
    """Returns ``folder`` itself when it is a trial, the one trial in it, or the one whose name begins so.

    Raises:
        DataError: when there is none, or more than one: some are named.
    """
    if folder.is_dir():
        if TrialFolder(folder).config.is_file():
            return folder
        return _only(
            _trials_in(folder), f"{folder}: holds", f"is not a trial: there is no {TrialFolder.CONFIG}", folder
        )
    if folder.exists():
        raise DataError(f"{folder}: is a file; give the folder of a trained trial: runs/NAME/TRIAL")
    beside = _trials_in(folder.parent) if folder.parent.is_dir() else []
    begin_so = [trial for trial in beside if trial.name.startswith(folder.name)]
    return _only(begin_so, f"{folder}: begins the names of", "does not exist", folder)


def _trials_in(folder: Path) -> list[Path]:
    try:
        return sorted(path.parent for path in folder.glob(f"*/{TrialFolder.CONFIG}") if path.is_file())
    except OSError as fault:
        raise DataError(f"{folder}: cannot be read: {fault.strerror}") from fault


def _only(trials: Sequence[Path], several: str, none: str, folder: Path) -> Path:
    """The one trial in ``trials``; ``several`` and ``none`` begin the error where there are more, or it is empty."""
    if len(trials) == 1:
        return trials[0]
    if not trials:
        raise DataError(f"{folder}: {none}; give the folder of a trained trial: runs/NAME/TRIAL")
    names = ", ".join(str(path) for path in trials[:_MAX_LISTED]) + (", ..." if len(trials) > _MAX_LISTED else "")
    raise DataError(f"{several} {len(trials)} trials; give one of them: {names}")


def _result(trial: TrialFolder, unfinished: bool) -> TrialResult:
    """The result of a finished trial; an empty one of another trial if that may be.

    Raises:
        DataError: when the trial is not finished and has to be.
    """
    result = trial.result()
    if result is not None:
        return result
    if unfinished:
        return TrialResult()
    state, step = trial.state(), trial.status().step
    far = f"its {trial.RESULT} is lost or damaged" if state is TrialState.UNREADABLE else str(state)
    far += f" at step {step}" if step and state is not TrialState.UNREADABLE else ""
    raise DataError(
        f"{trial.path}: the trial is not finished ({far}); the `focalbench run` command that started it resumes "
        "it, and --unfinished uses its newest checkpoint as it is"
    )


def _checkpoint(folder: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    """The newest whole checkpoint in ``folder``.

    Raises:
        CheckpointError: when there is none, or its parts are not those of a trial.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = load_newest(folder)
    for warning in caught:
        warn(str(warning.message))
    if checkpoint is None:
        raise CheckpointError(f"{folder}: no intact checkpoint; {START_ANEW}")
    kinds = {"config": dict, "classes": list, "model": dict, "criterion": dict, "step": int}
    for key, kind in kinds.items():
        if not isinstance(checkpoint.get(key), kind):
            raise CheckpointError(f"{folder}: the newest checkpoint has no {key}; it is not a trial's")
    return checkpoint


def _require_unchanged(config: ExperimentConfig, trained: Mapping[str, Any], folder: Path) -> None:
    """Refuses a config.yaml that was edited after the training in what the network depends on, naming what differs.

    Raises:
        CheckpointError: with the key and both values.
    """
    current = flatten(resolved(config))
    for key in sorted(current.keys() & trained.keys()):
        if not keeps_network(key) and current[key] != trained[key]:
            raise CheckpointError(
                f"{folder / TrialFolder.CONFIG}: {key} is {current[key]}, but the network was trained with "
                f"{trained[key]}; restore it"
            )


def _weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The network's state: of the average where the trial kept one."""
    average = checkpoint.get("ema")
    if not average:
        return dict(checkpoint["model"])
    return {name.removeprefix("module."): value for name, value in average.items() if name.startswith("module.")}


def _location(config: ExperimentConfig, root: Path | None, *, own_splits: bool) -> tuple[Path, tuple[str, ...]]:
    """Root of the data and the trial's evaluation splits; a folder that moved may be given anew."""
    if config.data.name != "voc":
        if root is not None and own_splits:
            raise ConfigError("--root: the trial was evaluated on generated images; give --split too")
        where, _, val = data_location(config)
        return root or where, val
    if root is not None:
        return root, config.data.val
    where = data_root(config)
    try:
        in_environment = data_root(config.model_copy(update={"data": config.data.model_copy(update={"root": None})}))
    except FocalbenchError:
        in_environment = where
    return (where if where.is_dir() else in_environment), config.data.val
