"""Where the data lie: from the configuration or, where it is silent, from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from focalbench.config.schema import ExperimentConfig
from focalbench.errors import ConfigError


def data_root(config: ExperimentConfig) -> Path:
    """Returns the folder that holds VOC2007, VOC2012, ...: ``data.root``, else $FOCALBENCH_DATA.

    Raises:
        ConfigError: when neither is given.
    """
    root = getattr(config.data, "root", None) or os.environ.get("FOCALBENCH_DATA")
    if not root:
        raise ConfigError("data.root: is missing; write it into the file, pass -s data.root=DIR or set FOCALBENCH_DATA")
    return Path(root).expanduser()
