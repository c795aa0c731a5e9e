"""Training and evaluation of one detector: plain arguments in, numbers out; no configuration, no data format.

A step is one optimizer update; ``step`` counts finished ones. Whatever is random in a step is a function of (seed,
step), so that a trial goes on from a checkpoint exactly as if it had never stopped.
"""
