"""Writes what a person reads: figures, pictures and pages made from results. Only ``analysis.py`` opens a trained
network.
"""
