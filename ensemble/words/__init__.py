"""Words: from CTC log-probabilities of phonemes to sentences, with a lexicon and a word n-gram model."""
