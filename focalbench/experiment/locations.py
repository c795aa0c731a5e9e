"""Where a configuration's data lie, and on which canvas: what must be known before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from focalbench.config.data import SyntheticData
from focalbench.config.paths import data_root
from focalbench.config.schema import ExperimentConfig
from focalbench.data.cache import CacheSettings
from focalbench.data.sixteen_bit import SampleRange
from focalbench.data.synthetic import ensure_synthetic
from focalbench.data.voc import Classes, ClassRule
from focalbench.runtime import choose_cache_dir


def data_location(config: ExperimentConfig) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """Returns the root folder, training splits and evaluation splits; a synthetic set is made where it is not there
    yet.

    Raises:
        ConfigError: when no root is given.
    """
    data = config.data
    if isinstance(data, SyntheticData):
        root = ensure_synthetic(cache_dir(config), num_train=data.num_train, num_val=data.num_val, seed=data.seed)
        return root, ("2007/train",), ("2007/val",)
    return data_root(config), data.train, data.val


def class_setting(config: ExperimentConfig) -> Classes:
    """Tells which classes are asked for; a synthetic set has its own."""
    return "auto" if isinstance(config.data, SyntheticData) else config.data.classes


def class_rule(config: ExperimentConfig) -> ClassRule:
    """Tells what becomes of objects of other classes."""
    return ClassRule(ignore=getattr(config.data, "other_classes", None) == "ignore")


def sample_range(config: ExperimentConfig) -> SampleRange | None:
    """Tells how 16-bit samples become 8-bit ones."""
    return getattr(config.data, "sample_range", None)


def cache_dir(config: ExperimentConfig) -> Path:
    """Tells where decoded images are kept."""
    return choose_cache_dir(config.data.cache_dir)


def canvas_size(config: ExperimentConfig) -> tuple[int, int]:
    """Returns (height, width) of the network's input in pixels."""
    size = config.data.image_size
    return (size, size) if isinstance(size, int) else size


def image_cache(config: ExperimentConfig) -> CacheSettings | None:
    """Returns the disk cache of decoded images that training reads; None where ``data.cache`` asks for no such file."""
    if config.data.cache in ("none", "ram"):
        return None
    return CacheSettings(canvas_size(config), config.data.fit, cache_dir(config), sample_range(config))
