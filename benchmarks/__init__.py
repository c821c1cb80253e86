"""Benchmarks: jetq and ipc beside raw nats-py that does the same work on the wire.

`python -m benchmarks` runs them all; see `__main__` for the options.
"""
