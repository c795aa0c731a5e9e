"""Data sets in Pascal VOC's layout: read, checked, decoded once, augmented in batches, and generated.

Shape legend: N images, B images of a batch, M objects of an image, K classes, H x W canvas pixels. A
:class:`focalbench.data.voc.Record` keeps boxes as VOC does, (xmin, ymin, xmax, ymax) in 1-based inclusive pixels;
everything that reaches a network is 0-based continuous canvas pixels (:mod:`focalbench.structures`). Reading and
checking need no torch; ``dataset``, ``transforms`` and ``loader`` do.
"""
