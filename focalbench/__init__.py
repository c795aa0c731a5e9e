"""focalbench: does your loss help your detector on your data?

``run`` trains what a configuration says, ``load`` reads what was trained, ``load_trial`` brings a trained network back:
docs/python.md. ``loss``, ``backbone``, ``detector`` and ``tracker`` decorate what is your own: docs/plugins.md.
Importing this package loads none of that, nor torch, before a name is used.
"""

from focalbench.version import __version__

TYPE_CHECKING = False  # what type checkers take for true; typing itself takes longer to import than all of this
if TYPE_CHECKING:
    from focalbench import losses as losses
    from focalbench import metrics as metrics
    from focalbench import models as models
    from focalbench import testing as testing
    from focalbench import tracking as tracking
    from focalbench.analysis.tables import ArmRow as ArmRow
    from focalbench.api.comparison import Comparison as Comparison
    from focalbench.api.network import Detections as Detections
    from focalbench.api.network import TrainedNetwork as TrainedNetwork
    from focalbench.api.network import load_trial as load_trial
    from focalbench.api.run import run as run
    from focalbench.api.sweep import Sweep as Sweep
    from focalbench.api.sweep import load as load
    from focalbench.errors import BusyError as BusyError
    from focalbench.errors import CheckpointError as CheckpointError
    from focalbench.errors import ConfigError as ConfigError
    from focalbench.errors import DataError as DataError
    from focalbench.errors import DeviceError as DeviceError
    from focalbench.errors import FocalbenchError as FocalbenchError
    from focalbench.errors import MissingPackageError as MissingPackageError
    from focalbench.errors import NothingFinishedError as NothingFinishedError
    from focalbench.errors import PluginError as PluginError
    from focalbench.errors import StorageError as StorageError
    from focalbench.plugins.registration import backbone as backbone
    from focalbench.plugins.registration import detector as detector
    from focalbench.plugins.registration import loss as loss
    from focalbench.plugins.registration import tracker as tracker
    from focalbench.records.reader import TrialRecord as TrialRecord
    from focalbench.records.state import TrialState as TrialState

_MODULE_OF = {
    "run": "focalbench.api.run",
    "load": "focalbench.api.sweep",
    "load_trial": "focalbench.api.network",
    "loss": "focalbench.plugins.registration",
    "backbone": "focalbench.plugins.registration",
    "detector": "focalbench.plugins.registration",
    "tracker": "focalbench.plugins.registration",
    "Sweep": "focalbench.api.sweep",
    "Comparison": "focalbench.api.comparison",
    "ArmRow": "focalbench.analysis.tables",
    "TrialRecord": "focalbench.records.reader",
    "TrialState": "focalbench.records.state",
    "TrainedNetwork": "focalbench.api.network",
    "Detections": "focalbench.api.network",
    "FocalbenchError": "focalbench.errors",
    "BusyError": "focalbench.errors",
    "CheckpointError": "focalbench.errors",
    "ConfigError": "focalbench.errors",
    "DataError": "focalbench.errors",
    "DeviceError": "focalbench.errors",
    "MissingPackageError": "focalbench.errors",
    "NothingFinishedError": "focalbench.errors",
    "PluginError": "focalbench.errors",
    "StorageError": "focalbench.errors",
}
"""Where each name comes from when it is used for the first time; the imports above say the same to type checkers."""
_SUBPACKAGES = ("losses", "metrics", "models", "testing", "tracking")
"""Packages that load when they are used as attributes."""

__all__ = ["__version__", *_MODULE_OF, *_SUBPACKAGES]


if not TYPE_CHECKING:  # else no misspelled name would be one for a type checker

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _SUBPACKAGES:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value  # found at once the next time
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
