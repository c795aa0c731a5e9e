"""What finished runs prove: statistics over paired seeds, comparisons of arms, the papers' figures beside the user's.

Reads run folders and detections; trains nothing and imports no torch, except where a module says that it opens a
trained network. Legend: an arm is a configuration without its seed; n paired seeds; differences are arm minus baseline.
"""
