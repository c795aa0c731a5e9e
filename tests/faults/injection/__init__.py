"""Faults made on purpose: what ``tests/faults`` tries in seconds and ``scripts/fault_injection.py`` in full."""
