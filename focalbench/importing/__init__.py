"""Data sets of other tools, read into one neutral form, written in VOC's layout: a module for each format, one writer.

Nothing of a source is changed, moved or followed out of its folder; every fault is found before anything is written.
"""
