"""What is installed only on request: asked before anything else is done, and without loading it."""

from __future__ import annotations

from importlib.util import find_spec

from focalbench.errors import ConfigError

TIMM = "timm/"
"""How the name of a backbone begins that is a network of timm's."""


def require_timm(backbone: str) -> None:
    """Refuses a backbone of timm's where timm is not installed.

    Raises:
        ConfigError: saying how to install it.
    """
    if backbone.startswith(TIMM) and find_spec("timm") is None:
        raise ConfigError(f"model.backbone: {backbone}: timm is not installed: pip install 'focalbench[timm]'")
