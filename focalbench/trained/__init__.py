"""Trained networks asked for more: evaluation on other images, prediction, export, from a trial's folder alone."""
