"""What to change in a configuration whose trial needs more memory than there is."""

from __future__ import annotations

from focalbench.config.schema import ExperimentConfig


def ways_out(config: ExperimentConfig, device_type: str, *, evaluating: bool = False) -> str:
    """Returns the keys that make a trial smaller, those first that leave its result as it is.

    Args:
        device_type: cpu or cuda.
        evaluating: an evaluation wanted more than there is, not a step.
    """
    run, optim, data, on_gpu = config.run, config.optim, config.data, device_type == "cuda"
    keys = []
    if evaluating:
        keys.append(f"eval.batch_size below {config.eval.batch_size or optim.batch_size}")
    if on_gpu and run.trials_per_device > 1:
        keys.append(
            f"run.trials_per_device below {run.trials_per_device} (that many trials share a GPU, and one may take "
            "the memory that another needs)"
        )
    if data.cache in (("auto", "device") if on_gpu else ("ram",)):
        keys.append("data.cache: disk")
    if on_gpu and not evaluating:
        keys.append(f"run.devices above {run.devices} (each takes its share of a batch)")
    if not on_gpu:
        keys.append(f"run.threads above {run.threads} (fewer trials side by side)")
    if on_gpu and optim.precision == "fp32":
        keys.append("optim.precision: bf16")
    if not evaluating:
        keys.append(f"optim.batch_size below {optim.batch_size}")
    sides = data.image_size if isinstance(data.image_size, int) else " x ".join(map(str, data.image_size))
    return f"set {', '.join(keys)} or data.image_size below {sides}"
