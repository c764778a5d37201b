"""References for tests: a sum over all alignments, and the prefix beam search as in the papers, without pruning."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from ensemble.lm.automaton import START, advance
from ensemble.lm.ngram import PhoneLM

Tokens = tuple[int, ...]


def every_sequence(log_probs: np.ndarray) -> dict[Tokens, float]:
    """log P of each label sequence with a probability above zero, summed over all alignments."""
    frames, classes = log_probs.shape
    scores: dict[Tokens, float] = {}
    for path in itertools.product(range(classes), repeat=frames):
        tokens = tuple(c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c))
        score = sum(float(log_probs[t, c]) for t, c in enumerate(path))
        scores[tokens] = float(np.logaddexp(scores.get(tokens, -np.inf), score))
    return {tokens: score for tokens, score in scores.items() if score > -np.inf}


def language_score(tokens: Tokens, lm: PhoneLM | None, weight: float, bonus: float | np.ndarray, end: bool) -> float:
    """Weighted language model score and bonus of a prefix, or with `end` of a whole sequence.

    `bonus` is what every label adds, or what each class adds (C,).
    """
    total = bonus * len(tokens) if isinstance(bonus, float) else float(bonus[list(tokens)].sum())
    state = START
    for token in tokens if lm is not None else ():
        log_prob, state = advance(*lm.automaton, state, token)
        total += weight * log_prob
    return total + (weight * advance(*lm.automaton, state, 0)[0] if end and lm is not None else 0.0)


def plain_beam_search(
    log_probs: np.ndarray, beam: int, lm: PhoneLM | None = None, weight: float = 0.0, bonus: float | np.ndarray = 0.0
) -> dict[Tokens, float]:
    """Scores of the beam after the last frame, in float64: every prefix is extended by every token in every frame."""
    return {prefix: score for prefix, (score, _) in plain_beam_with_frames(log_probs, beam, lm, weight, bonus).items()}


def plain_beam_with_frames(
    log_probs: np.ndarray, beam: int, lm: PhoneLM | None = None, weight: float = 0.0, bonus: float | np.ndarray = 0.0
) -> dict[Tokens, tuple[float, Tokens]]:
    """The scores of `plain_beam_search`, and the frame in which each token was emitted.

    The last token is emitted anew in a frame where the parent contributes more than the prefix itself does, by a blank
    or by the token again; the tokens before it then have the frames that they have in the parent.
    """
    # Log-probability of the paths of each prefix that end in a blank, and in the last token.
    beam_scores: dict[Tokens, tuple[float, float]] = {(): (0.0, -np.inf)}
    frames: dict[Tokens, Tokens] = {(): ()}
    for t, row in enumerate(log_probs.astype(np.float64)):
        extended: dict[Tokens, list[float]] = {}
        own = dict.fromkeys(beam_scores, -np.inf)
        entering: dict[Tokens, float] = {}
        for tokens, (blank, token) in beam_scores.items():
            total = np.logaddexp(blank, token)
            extensions = [(tokens, 0, total + row[0])]
            if tokens:
                extensions.append((tokens, 1, token + row[tokens[-1]]))
            own[tokens] = max(score for _, _, score in extensions)
            children = [
                ((*tokens, c), 1, (blank if tokens[-1:] == (c,) else total) + row[c]) for c in range(1, len(row))
            ]
            entering |= {child: score for child, _, score in children}
            for prefix, which, score in extensions + children:
                entry = extended.setdefault(prefix, [-np.inf, -np.inf])
                entry[which] = np.logaddexp(entry[which], score)
        ranked = sorted(
            (p for p in extended if np.logaddexp(*extended[p]) > -np.inf),
            key=lambda p, scores=extended: -np.logaddexp(*scores[p]) - language_score(p, lm, weight, bonus, end=False),
        )
        beam_scores = {prefix: (extended[prefix][0], extended[prefix][1]) for prefix in ranked[:beam]}
        frames = {
            p: (*frames[p[:-1]], t) if entering.get(p, -np.inf) > own.get(p, -np.inf) else frames[p]
            for p in beam_scores
        }
    return {
        prefix: (float(np.logaddexp(*scores)) + language_score(prefix, lm, weight, bonus, end=True), frames[prefix])
        for prefix, scores in beam_scores.items()
    }


@st.composite
def log_prob_rows(draw, frames=5, classes=4, impossible=True):
    """Normalised `(T, C)` float32 log-probabilities from flat to peaky, some of them -inf."""
    shape = draw(st.integers(1, frames)), draw(st.integers(1, classes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = random.normal(size=shape) * draw(st.sampled_from([0.3, 1.0, 5.0, 30.0]))
    if impossible and draw(st.booleans()):
        impossible_classes = random.random(shape) < 0.4
        impossible_classes[np.arange(shape[0]), random.integers(0, shape[1], shape[0])] = False
        logits[impossible_classes] = -np.inf
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
