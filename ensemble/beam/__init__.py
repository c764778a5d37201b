"""CTC prefix beam search. `beam_search` is the public function; the other modules are its compiled inner loops."""

from ensemble.beam.search import Hypothesis, PackedHypotheses, beam_search, packed_beam_search

__all__ = ["Hypothesis", "PackedHypotheses", "beam_search", "packed_beam_search"]
