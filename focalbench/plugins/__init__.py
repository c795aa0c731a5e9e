"""Losses, backbones, detectors and trackers that users bring along: their source, its execution, what it registers.

A plugin is a Python file or an installed module. Only what trains a user's own configuration executes one; whatever
reads results knows a plugin by the digest of its source.
"""
