"""Phone n-gram language models: modified Kneser-Ney estimation, a compiled automaton, and ARPA files."""

from ensemble.lm.arpa import read_arpa, write_arpa
from ensemble.lm.ngram import PhoneLM, estimate, estimate_folds

__all__ = ["PhoneLM", "estimate", "estimate_folds", "read_arpa", "write_arpa"]
