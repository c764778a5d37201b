"""The compiled prefix beam search over a lexicon's tree, for one utterance; the GIL is released.

A prefix is a word sequence and a node of the tree, which the phonemes of the next word have reached. All paths to it
are merged, so those of a word's pronunciations, with and without a silence before it, are summed. Its mass is split by
whether the last frame is a blank, as in CTC prefix beam search. A word is scored by the language model when its last
phoneme is followed by the next word or by the silence; until then, the best unigram among the words below the node
stands in for it when prefixes are compared (look-ahead, or smearing: Ortmanns, Ney & Eiden, "Language-model look-ahead
for large vocabulary speech recognition", ICSLP 1996).

Masses are float64 probabilities relative to the best prefix of the previous frame; the logarithms of these divisors are
summed. The state kept between frames is in `ensemble.words.state`. Each step processes a whole frame and takes the
arrays out of their tuples first, because a call of a function with a loop counts references to every array in its
arguments. With such calls for each prefix, the search took 2 to 8 times as long.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ensemble.lm.automaton import advance
from ensemble.words.state import (
    find,
    first_beam,
    first_sequences,
    more_candidates,
    more_sequences,
    next_sequence,
    no_candidates,
    no_ways,
)
from ensemble.words.trie import AFTER_SILENCE, ROOT

# Prefixes below this fraction of the best one, e ** -41, are pruned.
_MARGIN = 1e-18
# Contributions below this fraction of a full beam's worst prefix are left out. They matter only if a later frame
# favours a phoneme over a blank, or the reverse, by more than the inverse.
_NEGLIGIBLE = 1e-6


class Endings(NamedTuple):
    """Prefixes of the last frame that end with a whole word, and their log-probabilities."""

    parent: np.ndarray  # the word sequence without its last word; -1 if there are no words
    word: np.ndarray  # the last word
    ctc: np.ndarray  # float64 log-probabilities of the paths
    lm: np.ndarray  # float64 log-probabilities of the words and the end of the utterance


@njit(nogil=True, cache=True, error_model="numpy")
def search(log_probs, width, nbest, graph):
    """Search one utterance `(T, C)` float32 for its `nbest` best sequences of words with a beam of `width` prefixes.

    Returns (lengths, words, ctc, lm): the number of words of each of the H hypotheses, best first; their words,
    concatenated; their CTC log-probabilities, summed over all paths in the beam; and their log-probabilities under the
    language model.
    """
    beam, candidates, sequences, ways = first_beam(width), no_candidates(width), first_sequences(), no_ways(4 * width)
    probs = np.empty(log_probs.shape[1])
    offset = 0.0
    for t in range(len(log_probs)):
        peak, best_label = _copy_frame(log_probs[t], probs)
        threshold = _stay(probs, width, graph, beam, candidates)
        most_ways = _count_ways(graph.trie, beam)
        if most_ways > len(ways.source):
            ways = no_ways(2 * most_ways)
        if sequences.used[0] + most_ways > len(sequences.parent):
            sequences = more_sequences(sequences, sequences.used[0] + most_ways)
        entered = _list_ways(best_label, threshold, graph, beam, sequences, ways)
        if beam.used[0] + entered > len(candidates.key):
            candidates = more_candidates(candidates, beam.used[0] + entered)
        _enter(probs, threshold, graph, beam, ways, candidates)
        best = _select(width, graph, candidates, beam)
        if not best > 0.0:
            return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0), np.zeros(0)
        offset += peak
        offset += np.log(best)
    return _read_back(nbest, offset, graph, sequences, beam)


@njit(error_model="numpy")
def _copy_frame(log_probs, probs):
    """Write a frame's probabilities relative to their peak; returns the peak's log, and the best phoneme's value."""
    peak = log_probs.max()
    best_label = 0.0
    for c in range(len(probs)):
        probs[c] = np.exp(np.float64(log_probs[c]) - peak)
        if c > 0:
            best_label = max(best_label, probs[c])
    return peak, best_label


@njit(error_model="numpy")
def _stay(probs, width, graph, beam, candidates):
    """Let prefixes stay in the beam with a blank or their last token again. Returns the score others must exceed."""
    (sequence_of, node_of, blank_of, label_of, used), _, (keys, indices), place_of = candidates
    token, ahead = graph.trie.token, graph.ahead
    nodes = np.int64(len(token))
    lowest, highest = np.inf, 0.0
    for b in range(beam.used[0]):
        sequence, node = beam.sequence[b], beam.node[b]
        sequence_of[b], node_of[b] = sequence, node
        blank_of[b] = (beam.blank[b] + beam.label[b]) * probs[0]
        label_of[b] = beam.label[b] * probs[token[node]] if node != ROOT else 0.0
        score = (blank_of[b] + label_of[b]) * ahead[node]
        lowest, highest = min(lowest, score), max(highest, score)
        place = find(keys, sequence * nodes + node)
        keys[place], indices[place], place_of[b] = sequence * nodes + node, b, place
    used[0] = beam.used[0]
    return max(lowest * _NEGLIGIBLE if beam.used[0] == width else 0.0, highest * _MARGIN)


@njit(error_model="numpy")
def _count_ways(trie, beam):
    """The number of ways to continue the beam's prefixes: one within each one's word, and one per word that ends."""
    ways = beam.used[0]
    for b in range(beam.used[0]):
        ways += trie.first_word[beam.node[b] + 1] - trie.first_word[beam.node[b]]
    return ways


@njit(error_model="numpy")
def _list_ways(best_label, threshold, graph, beam, sequences, ways):
    """List the `ways` in which a prefix of the beam may exceed the threshold, and create their word sequences.

    Returns an upper bound on the number of nodes that are entered. `ways` and `sequences` must have room.
    """
    source, sequence_of, start, factor_of, used = ways
    first_child, last_child, _, first_word, words = graph.trie
    lm, bonus, silence = sequences.lm, graph.bonus, graph.silence
    listed, entered = 0, 0
    for b in range(beam.used[0]):
        node, sequence = beam.node[b], beam.sequence[b]
        highest = (beam.blank[b] + beam.label[b]) * best_label
        # Neither the look-ahead nor the language model raises a mass; the bonus may.
        if highest * max(1.0, np.exp(bonus)) <= threshold:
            continue
        for k in range(first_word[node] - 1, first_word[node + 1]):
            # The prefix's own word is tried before the words that end here.
            after, target, factor = sequence, node, 1.0
            if k >= first_word[node]:
                after, target = next_sequence(graph, sequences, sequence, words[k]), ROOT
                factor = np.exp(graph.lm_weight * (lm[after] - lm[sequence]) + bonus)
            if highest * factor > threshold:
                source[listed], sequence_of[listed], start[listed], factor_of[listed] = b, after, target, factor
                listed += 1
                entered += last_child[target] - first_child[target] + (silence > 0)
    used[0] = listed
    return entered


@njit(error_model="numpy")
def _enter(probs, threshold, graph, beam, ways, candidates):
    """Extend prefixes of the beam by a phoneme in each of the `ways`; `candidates` must have room for the results."""
    (sequence_of, node_of, blank_of, label_of, used), _, (keys, indices), place_of = candidates
    first_child, last_child, token_of, _, _ = graph.trie
    ahead, nodes = graph.ahead, np.int64(len(token_of))
    found = used[0]
    for w in range(ways.used[0]):
        b, start, sequence, factor = ways.source[w], ways.start[w], ways.sequence[w], ways.factor[w]
        node, blank, total = beam.node[b], beam.blank[b], beam.blank[b] + beam.label[b]
        first = first_child[start]
        # The silence is tried before the first child.
        to_silence = graph.silence > 0 and start == ROOT
        for child in range(first - to_silence, last_child[start]):
            target = AFTER_SILENCE if child < first else child
            token = token_of[target]
            mass = (blank if node != ROOT and token == token_of[node] else total) * probs[token] * factor
            if mass * ahead[target] <= threshold or mass == 0.0:
                continue
            place = find(keys, sequence * nodes + target)
            if keys[place] != -1:
                label_of[indices[place]] += mass
                continue
            keys[place], indices[place], place_of[found] = sequence * nodes + target, found, place
            sequence_of[found], node_of[found] = sequence, target
            blank_of[found], label_of[found] = 0.0, mass
            found += 1
    used[0] = found


@njit(error_model="numpy")
def _select(width, graph, candidates, beam):
    """Replace the beam by the best `width` candidates; returns the best score, by which their masses are divided.

    If it is 0, the beam is left unchanged.
    """
    prefixes, key = candidates.prefixes, candidates.key[: candidates.prefixes.used[0]]
    for i in range(len(key)):
        candidates.table.keys[candidates.place[i]] = -1
        key[i] = (prefixes.blank[i] + prefixes.label[i]) * graph.ahead[prefixes.node[i]]
    prefixes.used[0] = 0
    best = key.max()
    if not best > 0.0:
        return best
    bound = best * _MARGIN
    if len(key) > width:
        bound = max(bound, np.partition(key, len(key) - width)[len(key) - width])
    size, ties = 0, width
    for i in range(len(key)):
        ties -= key[i] > bound
    for i in range(len(key)):
        tie = key[i] == bound and ties > 0
        ties -= tie
        if key[i] > bound or tie:
            beam.sequence[size], beam.node[size] = prefixes.sequence[i], prefixes.node[i]
            beam.blank[size], beam.label[size] = prefixes.blank[i] / best, prefixes.label[i] / best
            size += 1
    beam.used[0] = size
    return best


@njit(error_model="numpy")
def _read_back(nbest, offset, graph, sequences, beam):
    """The prefixes that end with a whole word, summed by their words, in the form that `search` returns."""
    endings = _end(offset, graph, sequences, beam)
    order = _add_up(endings)
    lengths = np.zeros(len(order), np.int64)
    scores = np.empty(len(order))
    for k in range(len(order)):
        parent = endings.parent[order[k]]
        lengths[k] = 0 if parent < 0 else sequences.length[parent] + 1
        scores[k] = endings.ctc[order[k]] + graph.lm_weight * endings.lm[order[k]] + graph.bonus * lengths[k]
    best = np.argsort(-scores, kind="mergesort")[:nbest]
    order, lengths = order[best], lengths[best]
    words = np.empty(lengths.sum(), np.int32)
    end = 0
    for k in range(len(order)):
        end += lengths[k]
        sequence, word = endings.parent[order[k]], endings.word[order[k]]
        for at in range(end - 1, end - 1 - lengths[k], -1):
            words[at] = word
            if at > end - lengths[k]:
                word, sequence = sequences.word[sequence], sequences.parent[sequence]
    return lengths, words, endings.ctc[order], endings.lm[order]


@njit(error_model="numpy")
def _end(offset, graph, sequences, beam):
    """All ways in which the prefixes of the beam end with a whole word; some have the same words."""
    trie, lm = graph.trie, sequences.lm
    capacity = _count_ways(trie, beam)
    parent, word = np.empty(capacity, np.int64), np.zeros(capacity, np.int64)
    ctc, language = np.empty(capacity), np.empty(capacity)
    found = 0
    for b in range(beam.used[0]):
        h, node = beam.sequence[b], beam.node[b]
        # The language model and the bonus are constant factors of a sequence's mass.
        own = offset + np.log(beam.blank[b] + beam.label[b]) - graph.lm_weight * lm[h]
        own -= graph.bonus * sequences.length[h]
        if node in (ROOT, AFTER_SILENCE):
            parent[found], word[found], ctc[found] = sequences.parent[h], sequences.word[h], own
            language[found] = lm[h] + advance(graph.cells, graph.dense_end, sequences.state[h], 0)[0]
            found += 1
        for k in range(trie.first_word[node], trie.first_word[node + 1]):
            log_prob, after = advance(graph.cells, graph.dense_end, sequences.state[h], trie.words[k])
            parent[found], word[found], ctc[found] = h, trie.words[k], own
            language[found] = lm[h] + log_prob + advance(graph.cells, graph.dense_end, after, 0)[0]
            found += 1
    return Endings(parent[:found], word[:found], ctc[:found], language[:found])


@njit(error_model="numpy")
def _add_up(endings):
    """Sum endings with the same words; returns one index per word sequence, whose `ctc` is now the sum."""
    parent, word, ctc, _ = endings
    order = np.argsort(parent * np.int64(1 << 32) + word, kind="mergesort")
    merged = 0
    for i in order:
        if merged > 0:
            same = order[merged - 1]
            if parent[same] == parent[i] and word[same] == word[i]:
                high, low = max(ctc[same], ctc[i]), min(ctc[same], ctc[i])
                ctc[same] = high + np.log1p(np.exp(low - high))
                continue
        order[merged] = i
        merged += 1
    return order[:merged]
