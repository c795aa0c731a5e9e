"""focalbench: does focal loss help your detector on your data?"""

__version__ = "0.1.0"
