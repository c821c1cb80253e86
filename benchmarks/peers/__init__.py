"""jetq beside other Python job queues: the same workload, on the same machine.

`python -m benchmarks.peers`, or `make bench-peers`; see `__main__` for the options.

The app of each peer runs in an environment of its own, with nothing but the peer and the
standard library; so must `_child`, `_job` and `benchmarks._workload`, which it runs with.
"""
