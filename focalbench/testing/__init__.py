"""Checks for losses, backbones, detectors and trackers of one's own: what those of focalbench have to pass, in words.

In one's own test suite a loss takes one line: ``focalbench.testing.check_loss(my_loss).raise_if_failed()``.
"""

from focalbench.testing.loss import check_loss, loss_report
from focalbench.testing.parts import check_part, part_report
from focalbench.testing.report import Finding, LossReport, Report

__all__ = ["Finding", "LossReport", "Report", "check_loss", "check_part", "loss_report", "part_report"]
