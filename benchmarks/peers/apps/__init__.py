"""An app for each peer, as its users would write it; `benchmarks.peers._child` runs them.

Each runs in an environment of its own, with the peer and the standard library. Where the
peer documents a faster setting than the default, that is what is set.
"""
