"""Learned ranking of a pool's hypotheses: features, a log-linear posterior, and consensus decoding."""
