"""Exact CTC log-likelihoods of sentences: the sum over all pronunciations of their words, with and without silences.

The phoneme sequences of a sentence form a graph: each word branches into its pronunciations, with an optional silence
before the first word and after each word. CTC's forward recursion (Graves et al. 2006) runs over the nodes of this
graph instead of over the labels of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from ensemble.threads import map_threads
from ensemble.words.lexicon import Lexicon
from folds.store.ragged import Ragged
from registry.console import track


def sentence_likelihoods(
    log_probs: Sequence[np.ndarray] | Ragged,
    offsets: np.ndarray,
    sentences: Ragged,
    lexicon: Lexicon,
    silence: int = 0,
    description: str = "",
) -> np.ndarray:
    """log P(sentence | utterance) under one model, `(H,)` float64; -inf if an utterance has too few frames.

    Utterance u, log-probabilities `(T, C)`, has the sentences `offsets[u]:offsets[u + 1]`, words by number. The sum is
    over all combinations of pronunciations, with and without each silence of class `silence`.
    """
    scores = np.empty(len(sentences))
    tables = (
        lexicon.pronunciations_of.values, lexicon.pronunciations_of.offsets,
        lexicon.pronunciations.values, lexicon.pronunciations.offsets,
    )

    def score(row: int) -> None:
        first, last = offsets[row], offsets[row + 1]
        own = sentences.range(first, last)
        rows = np.asarray(log_probs[row], np.float64)
        scores[first:last] = _sum_paths(rows, own.values, own.offsets, *tables, silence)

    utterances = range(len(offsets) - 1)
    for _ in track(map_threads(score, utterances), f"scoring sentences, {description}", len(utterances)):
        pass
    return scores


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_paths(log_probs, words, offsets, of_word, of_word_offsets, phonemes, phoneme_offsets, silence):
    """Log-likelihoods `(H,)` of the sentences of one utterance `(T, C)`."""
    peaks = np.empty(len(log_probs))
    probs = np.empty(log_probs.shape)
    for t in range(len(log_probs)):
        peaks[t] = log_probs[t].max()
        probs[t] = np.exp(log_probs[t] - peaks[t])
    scores = np.empty(len(offsets) - 1)
    for h in range(len(scores)):
        token, first_before, before = _graph(
            words[offsets[h] : offsets[h + 1]], of_word, of_word_offsets, phonemes, phoneme_offsets, silence
        )
        scores[h] = peaks.sum() + _forward(probs, token, first_before, before)
    return scores


@njit(nogil=True, cache=True)
def _graph(words, of_word, of_word_offsets, phonemes, phoneme_offsets, silence):
    """The nodes of a sentence: `token` `(nodes,)`, and the nodes before node n, `before[first[n]:first[n + 1]]`.

    Node 0 is the start, with the blank as its token; the last node is the end, which has no token (-1).
    """
    nodes, edges, most_ends = _count(words, of_word, of_word_offsets, phoneme_offsets)
    token, first, before = np.empty(nodes, np.int64), np.empty(nodes + 1, np.int64), np.empty(edges, np.int64)
    # The next word follows the first `end_count` nodes of `ends`.
    ends, new_ends = np.empty(most_ends, np.int64), np.empty(most_ends, np.int64)
    token[0], first[0], first[1] = 0, 0, 0
    ends[0], count, edge, end_count = 0, 1, 0, 1
    if silence > 0:
        token[1], before[0], first[2] = silence, 0, 1
        ends[1], count, edge, end_count = 1, 2, 1, 2
    for w in words:
        new = 0
        for p in of_word[of_word_offsets[w] : of_word_offsets[w + 1]]:
            for k in range(phoneme_offsets[p], phoneme_offsets[p + 1]):
                token[count] = phonemes[k]
                if k == phoneme_offsets[p]:
                    edge = _follow(ends, end_count, before, edge)
                else:
                    before[edge] = count - 1
                    edge += 1
                count += 1
                first[count] = edge
            new_ends[new] = count - 1
            new += 1
        if silence > 0:
            token[count] = silence
            edge = _follow(new_ends, new, before, edge)
            new_ends[new] = count
            new += 1
            count += 1
            first[count] = edge
        ends, new_ends, end_count = new_ends, ends, new
    token[count] = -1
    edge = _follow(ends, end_count, before, edge)
    first[count + 1] = edge
    return token[: count + 1], first[: count + 2], before[:edge]


@njit(nogil=True, cache=True)
def _count(words, of_word, of_word_offsets, phoneme_offsets):
    """Upper bounds for a sentence: its nodes, its edges, and the nodes that a word or the end may follow."""
    nodes, edges, ends, most_ends = 3, 1, 2, 2
    for w in words:
        pronunciations = of_word_offsets[w + 1] - of_word_offsets[w]
        for p in of_word[of_word_offsets[w] : of_word_offsets[w + 1]]:
            length = phoneme_offsets[p + 1] - phoneme_offsets[p]
            nodes += length
            edges += length - 1
        nodes += 1
        # Each pronunciation follows all ends of the previous word, and the silence follows all pronunciations.
        edges += pronunciations * ends + pronunciations
        ends = pronunciations + 1
        most_ends = max(most_ends, ends)
    return nodes, edges + ends, most_ends


@njit(nogil=True, cache=True)
def _follow(ends, end_count, before, edge):
    """Make a node follow the first `end_count` of `ends`; returns the index of the next edge."""
    for e in range(end_count):
        before[edge + e] = ends[e]
    return edge + end_count


@njit(nogil=True, cache=True, error_model="numpy")
def _forward(probs, token, first, before):
    """The logarithm of the sum over all paths through the graph, `probs` `(T, C)`."""
    count = len(token) - 1
    blank, label = np.zeros(count), np.zeros(count)
    new_blank, new_label = np.zeros(count), np.zeros(count)
    blank[0] = 1.0
    offset = 0.0
    for t in range(len(probs)):
        row = probs[t]
        largest = 0.0
        for n in range(count):
            new_blank[n] = (blank[n] + label[n]) * row[0]
            if n > 0:
                entering = label[n]
                for e in range(first[n], first[n + 1]):
                    p = before[e]
                    entering += blank[p] if token[p] == token[n] else blank[p] + label[p]
                new_label[n] = entering * row[token[n]]
            largest = max(largest, new_blank[n] + new_label[n])
        if not largest > 0.0:
            return -np.inf
        for n in range(count):
            blank[n], label[n] = new_blank[n] / largest, new_label[n] / largest
        offset += np.log(largest)
    total = 0.0
    for e in range(first[count], first[count + 1]):
        total += blank[before[e]] + label[before[e]]
    return offset + np.log(total)
