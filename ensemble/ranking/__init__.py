"""Learned ranking of a pool's hypotheses: features, a log-linear posterior, boosted trees, and consensus decoding."""
