"""Where trials run: processes on this machine.

A launcher gets jobs (a trial, its folder, a device, a number of threads) and drives one worker process per slot; a
worker talks in JSON lines, so that it could sit on another machine. What is random in a trial does not depend on where
it runs.
"""
