"""The parts of gpu_figures.py: each is called in a process of its own and prints one line of JSON for each case.

Each part is a function of a :class:`gpu_parts.run.Run`; ``__main__`` has the list of them.
"""
