"""Folders that come from the configuration or, where it is silent, from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from focalbench.config.schema import ExperimentConfig
from focalbench.errors import ConfigError


def data_root(config: ExperimentConfig) -> Path:
    """The folder that holds VOC2007, VOC2012, ...: ``data.root``, else $FOCALBENCH_DATA.

    Raises:
        ConfigError: when neither is given.
    """
    root = getattr(config.data, "root", None) or os.environ.get("FOCALBENCH_DATA")
    if not root:
        raise ConfigError("data.root: is missing; write it into the file, pass -s data.root=DIR or set FOCALBENCH_DATA")
    return Path(root).expanduser()


def cache_dir(configured: str | None) -> Path:
    """The folder of decoded images: ``data.cache_dir``, else $FOCALBENCH_CACHE, else the user's cache folder.

    Where there is no home folder: one of this user's own in the folder for temporary files.
    """
    chosen = configured or os.environ.get("FOCALBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "focalbench"
    try:
        return Path.home() / ".cache" / "focalbench"
    except RuntimeError:
        import tempfile

        return Path(tempfile.gettempdir()) / f"focalbench-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
