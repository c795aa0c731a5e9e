"""First weights of a network: none, ImageNet's, or those of a file, which fit as a whole or are refused."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from focalbench.errors import DataError
from focalbench.models.features import FeatureExtractor

# Names that a state dict may stand under in a larger one; a focalbench checkpoint uses "model".
_NESTED = ("model", "state_dict")


def load_backbone_weights(backbone: FeatureExtractor, name: str, weights: str) -> None:
    """Fills a RetinaNet's backbone.

    Args:
        name: of the backbone, as in the configuration.
        weights: none | imagenet | path of a torch or safetensors file: torchvision's or timm's classifier, this
            backbone, or a RetinaNet or a focalbench checkpoint that holds it under ``backbone.``.

    Raises:
        ConfigError: ``imagenet`` for a backbone that has none.
        DataError: when the weights cannot be had, are damaged, or do not fit.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        state, source = backbone.imagenet_state(name), f"ImageNet weights of {name}"
    else:
        state, source = read_state_dict(Path(weights)), weights
    of_detector = any(key.startswith("backbone.") for key in state)
    own = below(state, "backbone.") if of_detector else backbone.adapted(state, source)
    load_whole(backbone, own, source)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Returns the tensors in a torch or safetensors file by name; only plain tensors are ever unpickled.

    Raises:
        DataError: when the file is missing, is no such file, or holds something else.
    """
    _check_is_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if find_spec("safetensors") is None:
        raise DataError(f"{path}: the library safetensors is not installed: pip install 'focalbench[timm]'")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as fault:
        raise DataError(f"{path}: not a safetensors file: {fault}") from fault


def torchvision_state(name: str) -> dict[str, Tensor]:
    """Returns torchvision's first ImageNet weights, those of the papers' time: cached, or downloaded and checked by
    hash.

    Raises:
        DataError: when the download fails.
    """
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, ValueError) as fault:
        raise DataError(
            f"model.weights: imagenet: cannot download {weights.url} ({fault}): "
            "download it elsewhere and give its path as model.weights"
        ) from fault


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
