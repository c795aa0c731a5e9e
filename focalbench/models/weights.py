"""First weights of a network: none, ImageNet's, or those of a file, which fit as a whole or are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import get_model_weights

from focalbench.errors import DataError
from focalbench.models.features import FeatureExtractor
from focalbench.models.weight_files import read_state_dict

Reading = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""From a state dict to the same tensors under other names; DataError where it cannot be read so."""

_UNCOUNTED = "num_batches_tracked"  # no weights depend on it; torchvision's files of 2017 do not have it


def load_backbone_weights(backbone: FeatureExtractor, name: str, weights: str) -> None:
    """Fills a RetinaNet's backbone.

    Args:
        name: of the backbone, as in the configuration.
        weights: none | imagenet | path of a torch or safetensors file: torchvision's or timm's classifier, this
            backbone, or a larger network that holds one of them, as a RetinaNet of focalbench's or torchvision's does,
            or a network that was wrapped to train in parallel or to be compiled: see :func:`fitting_part`.

    Raises:
        ConfigError: ``imagenet`` for a backbone that has none.
        DataError: when the weights cannot be had, are damaged, or do not fit.
    """
    if weights != "none":
        load_whole(backbone, *_backbone_state(backbone, name, weights))


def check_backbone_weights(backbone: FeatureExtractor, name: str, weights: str) -> None:
    """Raises what :func:`load_backbone_weights` would; ``backbone`` stays as it is and may be without memory, on
    torch's device ``meta``.
    """
    if weights != "none":
        require_fit(backbone, *_backbone_state(backbone, name, weights))


def _backbone_state(backbone: FeatureExtractor, name: str, weights: str) -> tuple[dict[str, Tensor], str]:
    """The tensors under the backbone's names, as far as they can be told, and what to call their source."""
    if weights == "imagenet":
        state, source = backbone.imagenet_state(name), f"ImageNet weights of {name}"
    else:
        state, source = read_state_dict(Path(weights)), weights
    return fitting_part(backbone, state, source, dict, lambda part: backbone.adapted(part, source)), source


def fitting_part(module: nn.Module, state: Mapping[str, Tensor], source: str, *readings: Reading) -> dict[str, Tensor]:
    """Returns the tensors of ``state`` that have the names of ``module``: all, or those below one common prefix.

    No prefix has a meaning: ``module.`` of DataParallel, ``_orig_mod.`` of torch.compile, ``backbone.body.`` of
    torchvision's detectors or ``encoder.`` are cut off alike where what lies below one of them is the network, with
    nothing missing and nothing left over. Where nothing fits, what comes nearest is returned, for
    :func:`require_fit` to say what is wrong.

    Args:
        readings: ways to read a part, tried in turn.

    Raises:
        DataError: when two parts fit, or no reading can take any part.
    """
    wanted = _counted(module.state_dict())
    fits: dict[str, dict[str, Tensor]] = {}
    nearest, most, refusal = None, 0, None
    for prefix in _common_prefixes(state, len(wanted) // 2):
        if any(prefix.startswith(shorter) for shorter in fits):
            continue
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for reading in readings:
            try:
                found = reading(part)
            except DataError as fault:
                refusal = refusal or fault
                continue
            if _counted(found) == wanted:
                fits[prefix] = found
                break
            if (shared := len(wanted & found.keys())) > most:
                nearest, most = found, shared
    if len(fits) > 1:
        raise DataError(f"{source}: holds this network {len(fits)} times ({', '.join(fits)}): save only the one to use")
    if fits:
        return next(iter(fits.values()))
    if nearest is None and refusal is not None:
        raise refusal
    return nearest if nearest is not None else readings[-1](dict(state))


def _counted(names: Mapping[str, Tensor]) -> set[str]:
    return {name for name in names if not name.endswith(_UNCOUNTED)}


def _common_prefixes(state: Mapping[str, Tensor], at_least: int) -> list[str]:
    """No prefix, then those up to a dot that ``at_least`` tensors of ``state`` share, the shorter ones first."""
    shares: Counter[str] = Counter()
    for name in state:
        parts = [] if name.endswith(_UNCOUNTED) else name.split(".")
        shares.update(".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
    return ["", *sorted((prefix for prefix, share in shares.items() if share >= at_least), key=len)]


def load_whole(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads ``state`` into ``module``: every tensor of it, in the right shape and finite, or none at all.

    Raises:
        DataError: see :func:`require_fit`.
    """
    require_fit(module, state, source)
    module.load_state_dict({name: state[name] for name in module.state_dict() if name in state}, strict=False)


def require_fit(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Refuses a ``state`` that is not the whole of ``module``.

    Raises:
        DataError: naming what is missing, left over, of another shape or not finite.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(_UNCOUNTED)]
    left_over = [name for name in state if name not in own and not name.endswith(_UNCOUNTED)]
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
