"""Whether this machine has what the trials ask for: said before the first image is read."""

from __future__ import annotations

from collections.abc import Sequence

from focalbench.config.sweep import Trial
from focalbench.devices import resolve_device, resolve_precision
from focalbench.errors import ConfigError


def require_hardware(trials: Sequence[Trial], device: str) -> None:
    """Resolves device and precision of all trials; what every machine has is not asked, for torch takes time to load.

    Args:
        device: auto | cpu | cuda | cuda:N.

    Raises:
        ConfigError: for a GPU that is not there, or the trials whose precision the device lacks.
    """
    asking: dict[str, list[str]] = {}
    for trial in trials:
        asking.setdefault(trial.config.optim.precision, []).append(trial.name)
    special = [name for name in asking if name not in ("auto", "fp32")]
    if device in ("auto", "cpu") and not special:
        return
    where = resolve_device(device, "run.device")
    for name in special:
        try:
            resolve_precision(name, where)
        except ConfigError as fault:
            share = asking[name]
            if len(share) == len(trials):
                raise
            raise ConfigError(f"{fault} ({len(share)} of {len(trials)} trials, {share[0]} first)") from fault
