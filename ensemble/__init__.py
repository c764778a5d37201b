"""From many members' log-probabilities to one string an utterance: decoding, blending, weights, the report."""
