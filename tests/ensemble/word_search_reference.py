"""Tiny lexicons and language models, and the search in words by plain recursions over them."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
from hypothesis import reject

from ensemble.lm.automaton import START, advance
from ensemble.words.kernel import _MARGIN
from ensemble.words.lexicon import Lexicon, read_lexicon
from ensemble.words.search import Vocabulary, WordSettings
from ensemble.words.word_lm import read_word_lm
from models.ctc import log_likelihood

PHONEMES = ["", "A", "B", " | "]
SILENCE = 3


def tiny_lm(words: int, seed: int) -> str:
    """A bigram model with random probabilities, which need not sum to 1."""
    rng = np.random.default_rng(seed)
    lines = ["-99\t<s>\t-0.2", f"{-rng.random():.4f}\t</s>"]
    lines += [f"{-rng.random():.4f}\tw{number}\t-0.1" for number in range(1, words + 1)]
    pairs = [f"{-rng.random():.4f}\tw{1 + rng.integers(words)}\t</s>", f"{-rng.random():.4f}\t<s>\tw1"]
    text = f"\\data\\\nngram 1={len(lines)}\nngram 2={len(pairs)}\n\n\\1-grams:\n" + "\n".join(lines)
    return text + "\n\n\\2-grams:\n" + "\n".join(pairs) + "\n\n\\end\\\n"


def random_search(
    folder: Path, entries: list[list[tuple[int, ...]]], frames: int, silence: int, seed: int, scale: float = 3
) -> tuple[Vocabulary, np.ndarray]:
    """A vocabulary of these pronunciations with a random language model, and random log-probabilities.

    A larger `scale` of the logits makes the network more certain.
    """
    lines = [f"w{w} " + " ".join(PHONEMES[c] for c in p) for w, own in enumerate(entries, start=1) for p in own]
    (folder / "lexicon.txt").write_text("\n".join(lines))
    (folder / "words.arpa").write_text(tiny_lm(len(entries), seed))
    lexicon = read_lexicon(folder / "lexicon.txt", PHONEMES)
    vocabulary = Vocabulary(lexicon, read_word_lm(folder / "words.arpa", lexicon), silence)
    logits = np.random.default_rng(seed).normal(0, scale, (frames, 4)).astype(np.float32)
    return vocabulary, logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def all_paths(
    log_probs: np.ndarray, lexicon: Lexicon, silence: int, frames: int
) -> dict[tuple[int, ...], float]:
    """log P_CTC of every sequence of up to `frames` words: the sum over pronunciations and silences."""
    gaps = [(), (silence,)] if silence else [()]
    labels = [tuple(lexicon.pronunciations[p]) for p in range(len(lexicon.word_of))]
    own = {word: [labels[p] for p in lexicon.pronunciations_of[word]] for word in lexicon.number_of.values()}
    found = {}
    for length in range(frames + 1):
        for words in itertools.product(own, repeat=length):
            choices = [gaps, *itertools.chain.from_iterable((own[word], gaps) for word in words)]
            sequences = [sum(chosen, ()) for chosen in itertools.product(*choices)]
            sequences = [sequence for sequence in sequences if len(sequence) <= frames]
            if sequences:
                found[words] = float(np.logaddexp.reduce(log_likelihood(log_probs, sequences)))
    return {words: score for words, score in found.items() if score > -np.inf}


def plain_word_search(
    log_probs: np.ndarray, vocabulary: Vocabulary, options: WordSettings, *, reject_far_ways: bool = False
) -> dict[tuple[int, ...], float]:
    """log P_CTC of each sentence in the beam after the last frame, in float64: every prefix is extended in every frame.

    A prefix is a word sequence with the phonemes of the next word so far, or with the silence before it. Hypothesis
    rejects ties at the edge of the beam, and with `reject_far_ways` also cases in which the search that is tested may
    leave out paths that show.
    """
    lexicon, lm = vocabulary.lexicon, vocabulary.lm
    words_of = [(tuple(p), int(word)) for p, word in zip(lexicon.pronunciations, lexicon.word_of, strict=True)]
    unigrams, after_silence = lm.unigrams(len(lexicon.words)), (vocabulary.silence,)
    Prefix = tuple[tuple[int, ...], tuple[int, ...]]

    def below(part: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
        part = () if part == after_silence else part
        return [(p, word) for p, word in words_of if p[: len(part)] == part]

    @functools.cache
    def added(words: tuple[int, ...]) -> float:
        """What the words add to a score, without the end of the sentence."""
        state, total = START, 0.0
        for word in words:
            log_prob, state = advance(*lm.automaton, state, word)
            total += options.lm_weight * float(log_prob) + options.word_bonus
        return total

    def ahead(part: tuple[int, ...]) -> float:
        best = max(unigrams[word] for _, word in below(part)) - max(unigrams[word] for _, word in words_of)
        return options.lm_weight * best if options.look_ahead else 0.0

    def next_parts(part: tuple[int, ...]) -> set[tuple[int, ...]]:
        known = 0 if part == after_silence else len(part)
        found = {p[: known + 1] for p, _ in below(part) if len(p) > known}
        return found | ({after_silence} if part == () and vocabulary.silence else set())

    # Log-probabilities of the paths that end in a blank, and in the last phoneme.
    beam: dict[Prefix, list[float]] = {((), ()): [0.0, -np.inf]}
    for row in log_probs.astype(np.float64):
        extended: dict[Prefix, list[float]] = {}
        taken: list[tuple[Prefix, int, float]] = []
        for (words, part), (blank, label) in beam.items():
            total = np.logaddexp(blank, label)
            extensions = [((words, part), 0, total + row[0])]
            extensions += [((words, part), 1, label + row[part[-1]])] if part else []
            ways = [(words, part), *(((*words, word), ()) for p, word in words_of if p == part)]
            for following, start in ways:
                for new in next_parts(start):
                    before = blank if part and part[-1] == new[-1] else total
                    extensions.append(((following, new), 1, before + row[new[-1]] + added(following) - added(words)))
            for prefix, which, score in extensions:
                entry = extended.setdefault(prefix, [-np.inf, -np.inf])
                entry[which] = np.logaddexp(entry[which], score)
            taken += extensions
        scores = {prefix: np.logaddexp(*masses) + ahead(prefix[1]) for prefix, masses in extended.items()}
        lowest = max(scores.values()) + np.log(_MARGIN)
        ranked = sorted((p for p in scores if scores[p] > lowest), key=scores.__getitem__, reverse=True)
        # Ways far below the beam may be left out, by a factor of 1e6 if it is full. That shows where they are most of
        # what a prefix has with a last blank, or with a last phoneme, and later frames favour it.
        ignored = max(lowest, scores[ranked[: options.beam][-1]] + np.log(1e-6)) + 1e-6
        if reject_far_ways and any(
            scores[prefix] > lowest and extended[prefix][which] - 14 < score <= ignored - ahead(prefix[1])
            for prefix, which, score in taken
        ):
            reject()
        # Ties at the edge of the beam may be broken either way.
        if len(ranked) > options.beam and scores[ranked[options.beam - 1]] <= scores[ranked[options.beam]] + 1e-6:
            reject()
        beam = {prefix: extended[prefix] for prefix in ranked[: options.beam]}
    found: dict[tuple[int, ...], float] = {}
    for (words, part), masses in beam.items():
        ends = [words] if part in ((), after_silence) else []
        for sentence in [*ends, *((*words, word) for p, word in words_of if p == part)]:
            score = np.logaddexp(*masses) - added(words)
            found[sentence] = float(np.logaddexp(found.get(sentence, -np.inf), score))
    return found
