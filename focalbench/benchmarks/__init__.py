"""What the parts cost: each module times one of them against public references, all in one run and interleaved."""
