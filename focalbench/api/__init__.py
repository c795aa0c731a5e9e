"""focalbench from Python: what ``import focalbench`` offers, as functions and typed results."""
