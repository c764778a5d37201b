"""Prefix beam search for CTC: `search` is the call, the other files are its compiled inner loops."""

from ensemble.beam.search import Hypothesis, beam_search

__all__ = ["Hypothesis", "beam_search"]
