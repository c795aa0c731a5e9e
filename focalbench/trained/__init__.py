"""Trained networks asked for more: evaluation on other images, prediction, export, from a trial's folder alone."""

SCORE_THRESH = 0.3
"""Boxes with a lower score are not shown, unless somebody asks for them."""
