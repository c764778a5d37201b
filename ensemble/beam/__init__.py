"""CTC prefix beam search. `beam_search` is the public function; the other modules are its compiled inner loops."""

from ensemble.beam.search import Hypothesis, beam_search

__all__ = ["Hypothesis", "beam_search"]
