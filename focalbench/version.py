"""The version of this package: what results record and ``focalbench --version`` prints."""

__version__ = "0.1.0"
