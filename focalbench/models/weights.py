"""First weights of a network: none, ImageNet's through torchvision, or a file, which fits as a whole or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from focalbench.errors import ConfigError, DataError
from focalbench.models.backbones import Backbone

# Names that a state dict may stand under in a larger one; a focalbench checkpoint uses "model".
_NESTED = ("model", "state_dict")


def load_backbone_weights(backbone: Backbone, name: str, weights: str) -> None:
    """Fills a RetinaNet's backbone.

    Args:
        name: of the backbone, in torchvision's spelling.
        weights: none | imagenet | path of a torch file: torchvision's classifier, this backbone, or a RetinaNet or a
            focalbench checkpoint that holds it under ``backbone.``.

    Raises:
        ConfigError: ``imagenet`` for a backbone that torchvision does not have.
        DataError: when the weights cannot be had, are damaged, or do not fit.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        if not backbone.torchvision_names:
            raise ConfigError(f"model.weights: imagenet: backbone {name} has no ImageNet weights: use none or a file")
        state, source = _imagenet_state(name), f"ImageNet weights of {name}"
    else:
        state, source = read_state_dict(Path(weights)), weights
    load_whole(backbone, _backbone_names(state, backbone.torchvision_names), source)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Returns the tensors in a torch file by name; only plain tensors are ever unpickled.

    Raises:
        DataError: when the file is missing, is not a torch file, or holds something else.
    """
    _check_is_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises many kinds for files that are not tensors
        reason = (str(fault).splitlines() or [fault.__class__.__name__])[0]
        raise DataError(f"{path}: not a torch file of plain tensors: {reason}") from fault
    for name in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            break
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return {str(name): value for name, value in state.items()}


def load_whole(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads ``state`` into ``module``: every tensor of it, in the right shape and finite, or none at all.

    Raises:
        DataError: naming what is missing, left over, of another shape or not finite.
    """
    own = module.state_dict()
    # A count of batches that no weights depend on; torchvision's files of 2017 do not have it.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    shared = [name for name in own if name in state]
    reshaped = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in shared
        if state[name].shape != own[name].shape
    ]
    broken = [name for name in shared if state[name].is_floating_point() and not bool(state[name].isfinite().all())]
    faults = {"missing": missing, "not in this network": left_over, "of another shape": reshaped, "not finite": broken}
    found = [f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in faults.items() if names]
    if found:
        raise DataError(f"{source}: does not fit: {'; '.join(found)}: check model.backbone and model.weights")
    module.load_state_dict({name: state[name] for name in shared}, strict=False)


def _imagenet_state(name: str) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights, those of the papers' time: cached, or downloaded and checked by hash."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, ValueError) as fault:
        raise DataError(
            f"model.weights: imagenet: cannot download {weights.url} ({fault}): "
            "download it elsewhere and give its path as model.weights"
        ) from fault


def _backbone_names(state: Mapping[str, Tensor], torchvision_names: Mapping[str, str]) -> dict[str, Tensor]:
    """``state`` under the names of ``Backbone``, without a classifier."""
    if any(key.startswith("backbone.") for key in state):
        return below(state, "backbone.")
    if any(key.startswith("stages.") for key in state):
        return dict(state)
    kept = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    return {_renamed(key, torchvision_names): value for key, value in kept.items()}


def _renamed(key: str, prefixes: Mapping[str, str]) -> str:
    """``key`` with its first fitting prefix replaced; unknown keys stay, to be reported as left over."""
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the entries under ``prefix``, which is cut off; all of them where none is."""
    found = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    return found or dict(state)


def is_torch_file(path: Path) -> bool:
    """Returns whether ``path`` starts like a file of ``torch.save``: a zip archive, or a pickle in the old format."""
    _check_is_file(path)
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such weight file: model.weights is none, imagenet or the path of a file")
