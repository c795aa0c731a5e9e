"""Faults that are the user's to mend: each names the file or key, the reason and the way out.

The command line prints them without a traceback and ends with ``exit_code``.
"""


class FocalbenchError(Exception):
    """Base of every fault that is reported in words, never as a traceback."""

    exit_code = 2


class ConfigError(FocalbenchError):
    """The configuration, an override or an argument is wrong."""


class DataError(FocalbenchError):
    """The data set, an image, an annotation or a weight file is wrong."""


class StorageError(FocalbenchError):
    """A folder cannot be written, is in use by another process, or holds something else."""


class BusyError(StorageError):
    """Another process is at work in the folder."""


class PluginError(FocalbenchError):
    """The code of a plugin is wrong, at the file and line that are named."""


class CheckpointError(FocalbenchError):
    """A checkpoint is damaged, untrusted or belongs to another configuration."""


class DivergedError(FocalbenchError):
    """The loss or its gradient is no longer finite; the trial stops."""

    exit_code = 3


class RankLostError(FocalbenchError):
    """Another of the processes that train this trial is gone; the trial can go on from its checkpoint."""

    exit_code = 3


class DeviceError(FocalbenchError):
    """The device cannot compute what it is asked for."""


class DeviceMemoryError(DeviceError):
    """A GPU or the machine has no memory left for what is asked."""


class DeviceLostError(DeviceError):
    """This process can use its GPU no more; another one may go on from the trial's checkpoint.

    ``gone``: the GPU is not there at all any more.
    """

    exit_code = 3

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


class NothingFinishedError(FocalbenchError):
    """Not one trial of a sweep has come to its end; the message says why the first of them failed.

    ``exit_code`` is that of ``focalbench run``.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MissingPackageError(FocalbenchError, ImportError):
    """A package that only an extra brings is not installed; the message says what to install."""


class InterruptedTrial(FocalbenchError):  # noqa: N818 - an ordered stop, not a fault
    """SIGINT or SIGTERM arrived and the checkpoint is written; ``signum`` is the signal's number."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum
