"""The speech of the demo competition: a small lexicon and grammar, and a synthesiser that makes MFCCs from phonemes."""
