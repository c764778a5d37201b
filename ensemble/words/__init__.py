"""Words: from CTC log-probabilities of phonemes to sentences, by a lexicon and an n-gram model of words."""
