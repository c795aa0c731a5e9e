"""One trial from its configuration to its result: build, resume, train, evaluate, write."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from focalbench.config.dump import dump_yaml, resolved
from focalbench.config.loss import PluginLoss
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial
from focalbench.device_faults import device_faults
from focalbench.devices import gpu_peaks_mb, reset_gpu_peaks, resolve_device, set_determinism, use_device
from focalbench.errors import (
    CheckpointError,
    ConfigError,
    DeviceLostError,
    DivergedError,
    FocalbenchError,
    InterruptedTrial,
    RankLostError,
    StorageError,
)
from focalbench.experiment import build
from focalbench.experiment.build_loss import build_criterion
from focalbench.experiment.events import FollowerEvents, Progress, TrialEvents
from focalbench.experiment.live_figures import LiveLossFigures
from focalbench.experiment.memory import ways_out
from focalbench.experiment.pictures import picture_steps, write_batch_picture
from focalbench.experiment.resume import Warn, newest_checkpoint, precision_name, require_same, resumed_precision
from focalbench.experiment.scale import matched_factor
from focalbench.experiment.selfcheck import initial_class_loss
from focalbench.plugins.loading import load_plugins, plugin_faults, registered
from focalbench.ranks import from_first, rank, world_size
from focalbench.records.detections import read_detections
from focalbench.records.metrics import drop_values
from focalbench.records.result import TrialResult
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag, environment, peak_memory_mb, restore_rng_state, seed_everything
from focalbench.storage import START_ANEW, remove_unfinished, write_atomically
from focalbench.tags import EVALUATION, LOSS_WEIGHT
from focalbench.tracking.hparams import columns_of, flatten, with_focal_form
from focalbench.tracking.tracker import TrackedTrial
from focalbench.tracking.trackers import open_trackers
from focalbench.training.checkpoint import OPTIMIZER, keep_weights
from focalbench.training.evaluate import score
from focalbench.training.loop import Plan, StepSettings, TrainState, fit

_MATCH_BATCHES = 8
_LEAST_LR_SCALE = 1 / 16


@dataclass(frozen=True)
class _Hooks:
    """How a trial talks to who started it."""

    stop: StopFlag
    progress: Progress
    warn: Warn


@dataclass
class _Session:
    """The parts of one trial in this process."""

    state: TrainState
    batches: build.AugmentedBatches
    step_settings: StepSettings
    data: build.DataSets
    identity: dict[str, Any]
    notes: dict[str, Any]
    started: float
    wall_before: float = 0.0

    def wall_s(self) -> float:
        """Returns the time that led to the present state, that of earlier processes included; what a kill lost is left
        out.
        """
        return self.wall_before + time.monotonic() - self.started


def run_trial(
    trial: Trial, folder: Path, *, device: str, stop: StopFlag, progress: Progress, warn: Warn = warnings.warn
) -> TrialResult:
    """Trains ``trial`` in ``folder`` from its newest good checkpoint, or from the start, to its result.

    Raises:
        BusyError: when another process owns the folder.
        StorageError: when it cannot be written.
        DivergedError: when the loss or a gradient is no longer finite; the status says so.
        InterruptedTrial: when ``stop`` was set, after a checkpoint.
        DeviceMemoryError: when the GPU or the machine has too little memory.
        DeviceLostError: when this process can use its GPU no more; another one may go on from the checkpoint.
        FocalbenchError: for faults of data or configuration.
    """
    own = TrialFolder(folder)
    with own.owned():
        return _run_owned(trial, own, device, _Hooks(stop, progress, warn))


def follow_trial(trial: Trial, folder: Path, *, device: str, stop: StopFlag) -> None:
    """Does what every other rank does while the first one is in :func:`run_trial`: its share; it writes nothing.

    Raises:
        FocalbenchError: what the first rank raises too, unless it concerns its files.
    """
    if from_first(False):
        _train(trial, TrialFolder(folder), device, _Hooks(stop, progress=lambda *_: None, warn=lambda _: None))


def _run_owned(trial: Trial, folder: TrialFolder, device: str, hooks: _Hooks) -> TrialResult:
    """What the owner of the folder does: the status always tells how the trial ended."""
    done = folder.result()
    from_first(done is None)  # the other ranks wait for it
    if done is not None:
        return done
    remove_unfinished(folder.path)
    write_atomically(folder.config, dump_yaml(trial.config).encode())
    folder.keep_plugins(trial.plugins)
    folder.write_status(trial, TrialState.RUNNING)
    try:
        session, events = _train(trial, folder, device, hooks)
        assert isinstance(events, TrialEvents)
        result = _result(trial, folder, session, events)
        folder.write_result(result)
        folder.write_status(trial, TrialState.DONE, step=session.state.step, steps=events.total_steps)
    except InterruptedTrial as fault:
        folder.write_status(trial, TrialState.INTERRUPTED, error=str(fault))
        raise
    except BaseException as fault:
        # The death of another rank shows in this one as some error of torch.
        lost = world_size() > 1 and not isinstance(fault, FocalbenchError)
        # Nor is a full disk or a lost GPU the trial's fault: the same command goes on with it.
        goes_on = lost or isinstance(fault, KeyboardInterrupt | StorageError | DeviceLostError)
        state = TrialState.INTERRUPTED if goes_on else TrialState.FAILED
        folder.write_status(trial, state, error=str(fault) or type(fault).__name__)
        if lost:
            raise RankLostError(f"{folder.path}: this rank cannot continue: {fault}") from fault
        raise
    with suppress(Exception):  # only costs space, and `focalbench clean` does it later
        keep_weights(folder.checkpoints)
    return result


def _train(
    trial: Trial, folder: TrialFolder, device: str, hooks: _Hooks
) -> tuple[_Session, TrialEvents | FollowerEvents]:
    """Trains to the end on ``device``, which becomes that of all libraries."""
    where = resolve_device(device)
    with plugin_faults(), device_faults(str(where), lambda: ways_out(trial.config, where.type)):
        use_device(where)
        reset_gpu_peaks(where)
        load_plugins(trial.plugins)
        return _train_on(where, trial, folder, hooks)


def _train_on(
    device: torch.device, trial: Trial, folder: TrialFolder, hooks: _Hooks
) -> tuple[_Session, TrialEvents | FollowerEvents]:
    """Trains to the end; after a divergence, where that is asked for, again from the last good checkpoint."""
    lr_scale = 1.0
    while True:
        session = _prepare(trial, folder, device, hooks)
        lr_scale = session.state.lr_scale = min(session.state.lr_scale, lr_scale)
        may_retry = trial.config.run.on_divergence == "retry" and lr_scale > _LEAST_LR_SCALE
        try:
            return session, _fit(trial, folder, session, hooks, may_retry)
        except DivergedError as fault:
            if not may_retry:
                raise DivergedError(f"{fault}{_hint(trial, fault)}") from fault
            lr_scale /= 2
            hooks.warn(
                f"{trial.name}: {fault}; resuming from the last good checkpoint at {lr_scale:g} of the learning rate"
            )


def _hint(trial: Trial, fault: DivergedError) -> str:
    """What else to look at where the loss is somebody's own: where it is, and what tries it."""
    loss, origins = trial.config.loss, {source.digest: source.origin for source in trial.plugins}
    if not isinstance(loss, PluginLoss) or loss.source not in origins:
        return ""
    place = registered("loss", loss.name, loss.source).place
    named = "" if place in str(fault) else f"; the loss is defined at {place}"
    return f"{named}; `focalbench plugin check {origins[loss.source]}` looks for inputs at which it fails"


def _prepare(trial: Trial, folder: TrialFolder, device: torch.device, hooks: _Hooks) -> _Session:
    """Builds all parts and puts them where the newest checkpoint says."""
    config, started = trial.config, time.monotonic()
    checkpoint = newest_checkpoint(trial, folder.checkpoints, hooks.warn)
    settings = StepSettings(device, resumed_precision(trial, checkpoint, device, hooks.warn), config.optim.clip_norm)
    set_determinism(config.run.deterministic)
    seed_everything(config.seed)
    data = build.build_data(config, hooks.stop)
    model = build.build_model(config, len(data.train.classes), data.train)
    try:
        criterion = build_criterion(config, model, data.train)
    except ValueError as fault:  # what the loss finds wrong with its parameters, such as a list of the wrong length
        raise ConfigError(f"loss: {fault}") from fault
    batches = build.build_batches(config, data.train, device)
    state = build.build_state(config, model, criterion, settings)
    identity = {
        "config": flatten(resolved(config)),
        "classes": list(data.train.classes),
        "data": [data.train.fingerprint, data.val.fingerprint],
    }
    session = _Session(state, batches, settings, data, identity, notes={}, started=started)
    if checkpoint is None:
        _start(trial, session, hooks.warn)
    else:
        _restore(trial, session, checkpoint, folder.path)
    return session


def _restore(trial: Trial, session: _Session, checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Puts the session where ``checkpoint`` says.

    Raises:
        CheckpointError: when it is of another experiment, or its parts do not fit.
    """
    try:
        require_same(checkpoint, session.identity, folder)
        if checkpoint[OPTIMIZER] is None and checkpoint["step"] < build.total_steps(
            trial.config, len(session.data.train)
        ):
            raise ValueError("it holds weights only, as of a finished training")
        device = session.step_settings.device
        with device_faults(str(device), lambda: ways_out(trial.config, device.type)):  # are no fault of the checkpoint
            session.state.load_state_dict(checkpoint)
            restore_rng_state(checkpoint["rng"], device)
        session.notes, session.wall_before = checkpoint["notes"], checkpoint["wall_s"]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as fault:
        first = (str(fault).strip() or type(fault).__name__).splitlines()[0]
        raise CheckpointError(f"{folder}: the checkpoint does not fit: {first}; {START_ANEW}") from fault


def _start(trial: Trial, session: _Session, warn: Warn) -> None:
    """What is measured once, on the untrained network: the loss against theory, and the factor that matches scales."""
    config, state = trial.config, session.state
    check = initial_class_loss(
        state.model,
        state.criterion,
        session.batches,
        prior_prob=getattr(config.model, "prior_prob", None),
        knows_prior=hasattr(config.model, "prior_prob"),
    )
    if check["diagnosis"]:
        warn(f"{trial.name}: {check['diagnosis']}")
    session.notes["initial_loss"] = check
    if config.loss.match_scale:
        factor = matched_factor(
            state.model, state.criterion, session.batches, num_batches=_MATCH_BATCHES, settings=session.step_settings
        )
        state.criterion.weight.mul_(factor)
    session.notes["loss_weight"] = state.criterion.weight.item()
    seed_everything(config.seed)


def _fit(
    trial: Trial, folder: TrialFolder, session: _Session, hooks: _Hooks, may_retry: bool
) -> TrialEvents | FollowerEvents:
    """Trains from where the session stands to the end."""
    plan = build.build_plan(trial.config, len(session.data.train))
    asked = trial.config.optim.warmup_steps
    if build.warmup_steps(trial.config, plan.total_steps) != asked:
        hooks.warn(
            f"{trial.name}: optim.warmup_steps: {asked} would not end before the training, after "
            f"{plan.total_steps} steps: cut to half of them; lower it, or raise optim.epochs"
        )
    if trial.config.optim.compile:
        session.state.model.compile()  # in place: the names of the weights in checkpoints stay
    if rank() > 0:
        follower = FollowerEvents(
            trial, session.data.val, build.detection_settings(trial.config), session.step_settings, hooks.stop
        )
        fit(session.state, session.batches, plan, session.step_settings, follower, hooks.stop)
        return follower
    step = build.build_step(
        trial.config,
        session.state,
        session.step_settings.device,
        warn=lambda text: hooks.warn(f"{trial.name}: {text}"),
    )
    with _written(trial, folder, session, hooks, plan, may_retry) as events:
        fit(session.state, session.batches, plan, session.step_settings, events, hooks.stop, step)
    return events


@contextmanager
def _written(
    trial: Trial, folder: TrialFolder, session: _Session, hooks: _Hooks, plan: Plan, may_retry: bool
) -> Iterator[TrialEvents]:
    """Opens the trackers, tells TensorBoard how the training within the block ended, closes them."""
    config, state = trial.config, session.state
    if state.evaluated < state.step:  # its evaluation may be written down already, and is done again
        drop_values(folder.path, state.step, EVALUATION)
    tracker = open_trackers(
        TrackedTrial(
            folder.path,
            name=trial.name,
            arm=trial.arm,
            hparams=with_focal_form(flatten(resolved(config)), session.state.criterion.classification.focal_form()),
            columns=columns_of(ExperimentConfig.model_json_schema(), trial.plugin_schema),
            resume_step=state.step or None,
        ),
        build.plugin_trackers(config),
    )
    events = TrialEvents(
        folder=folder,
        trial=trial,
        tracker=tracker,
        val=session.data.val,
        detection=build.detection_settings(config),
        step_settings=session.step_settings,
        live_figures=LiveLossFigures(
            session.data.val, batch_size=config.optim.batch_size, settings=session.step_settings
        ),
        picture_steps=picture_steps(plan.eval_steps),
        total_steps=plan.total_steps,
        identity={
            **session.identity,
            "notes": session.notes,
            "precision": precision_name(session.step_settings.precision),
        },
        wall_s=session.wall_s,
        progress=hooks.progress,
        warn=hooks.warn,
        stop=hooks.stop,
    )
    try:
        if state.step == 0:
            tracker.scalars(0, {LOSS_WEIGHT: session.notes["loss_weight"]})
            write_batch_picture(tracker, session.batches, session.data.train.classes)
        folder.write_status(trial, TrialState.RUNNING, steps=plan.total_steps)  # who looks on from outside asks for it
        hooks.progress(state.step, plan.total_steps, {})
        yield events
    except InterruptedTrial:
        raise
    except BaseException as fault:
        if not (may_retry and isinstance(fault, DivergedError)):
            with suppress(Exception):  # what broke the training is what to tell
                tracker.finish(TrialState.FAILED)
        raise
    else:
        tracker.finish(TrialState.DONE)
    finally:
        tracker.close()


def _result(trial: Trial, folder: TrialFolder, session: _Session, events: TrialEvents) -> TrialResult:
    """The result, by the last evaluation and never the best one."""
    state, data, last = session.state, session.data, events.last
    if last is None:  # the process before this one was killed between the last checkpoint and the result
        stored = read_detections(folder.path)
        last = score(stored.detections, stored.truth, data.val.classes, trial.config.eval.protocol)
    gpu_memory_mb, gpu_reserved_mb = gpu_peaks_mb(session.step_settings.device)
    return TrialResult(
        trial=trial.name,
        arm=trial.arm,
        seed=trial.seed,
        differs=trial.differs,
        config_hash=trial.hash,
        mean_ap=last.mean_ap,
        best_mean_ap=state.best,
        class_ap=dict(last.ap),
        protocol=trial.config.eval.protocol,
        split=list(trial.config.data.val) if trial.config.data.name == "voc" else ["synthetic/val"],
        classes=list(data.train.classes),
        step=state.step,
        steps=events.total_steps,
        train_images=len(data.train),
        val_images=len(data.val),
        data_fingerprint=[data.train.fingerprint, data.val.fingerprint],
        wall_s=session.wall_s(),
        train_s=state.seconds,
        images_per_s=state.step * trial.config.optim.batch_size / max(state.seconds, 1e-9),
        num_parameters=num_parameters(state.model),
        loss_weight=session.notes["loss_weight"],
        initial_loss=session.notes["initial_loss"],
        lr_scale=state.lr_scale,
        peak_memory_mb=peak_memory_mb(),
        gpu_memory_mb=gpu_memory_mb,
        gpu_reserved_mb=gpu_reserved_mb,
        device=str(session.step_settings.device),
        devices=world_size(),
        precision=str(session.step_settings.precision).removeprefix("torch."),
        environment=environment(session.step_settings.device),
    )


def num_parameters(model: nn.Module) -> int:
    """Returns the number of parameters, trainable and frozen, buffers left out."""
    return sum(parameter.numel() for parameter in model.parameters())
