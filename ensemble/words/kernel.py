"""The compiled prefix beam search over a lexicon's tree, for one utterance; the GIL is released.

A prefix is a sequence of words and a node of the tree, where the phonemes of the next word have arrived. All ways to it
are one prefix, so the paths of a word's pronunciations and those with and without silence before it are added up. Its
mass is kept apart by whether the last frame is a blank, as in CTC prefix beam search. A word is scored by the language
model when its last phoneme is followed by the next word or by the silence; until then, the best unigram among the words
below the node stands in for it in the comparison of prefixes (look-ahead, or smearing: Ortmanns, Ney & Eiden,
"Language-model look-ahead for large vocabulary speech recognition", ICSLP 1996).

Masses are probabilities in float64 relative to the best prefix of the frame before; the logarithms of what they were
divided by are summed. numba's cache does not notice changes to other files: remove `__pycache__` after editing them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ensemble.lm.automaton import START, advance
from ensemble.words.trie import AFTER_SILENCE, ROOT

# What is further below the best prefix is left out: e ** -41 of it.
_MARGIN = 1e-18
# A contribution this far below the worst prefix of a full beam changes no mass by more than its rounding.
_NEGLIGIBLE = 1e-6


@njit(nogil=True, cache=True, inline="always")
def _slot(keys, key):
    """Where `key` is in a hash table with linear probing, or the free slot (-1) where it belongs."""
    size = len(keys)
    code = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    place = np.int64((code ^ (code >> np.uint64(29))) & np.uint64(size - 1))
    while keys[place] != -1 and keys[place] != key:
        place = (place + 1) & (size - 1)
    return place


@njit(nogil=True, cache=True)
def _grown_table(keys, values):
    """A table of twice the size with the same entries."""
    new_keys, new_values = np.full(2 * len(keys), -1), np.empty(2 * len(keys), values.dtype)
    for place in range(len(keys)):
        if keys[place] != -1:
            new = _slot(new_keys, keys[place])
            new_keys[new], new_values[new] = keys[place], values[place]
    return new_keys, new_values


@njit(nogil=True, cache=True)
def _doubled(values):
    more = np.empty(2 * len(values), values.dtype)
    more[: len(values)] = values
    return more


@njit(nogil=True, cache=True, error_model="numpy")
def search(log_probs, beam, nbest, trie, ahead, cells, dense_end, silence, lm_weight, bonus):
    """Search one utterance `(T, C)` float32 for its `nbest` best sequences of words.

    `ahead` `(nodes,)` is the look-ahead's factor of each node. Returns (lengths, words, ctc, lm): the number of words
    of each of the H hypotheses, best first, their words one after the other, the logarithm of their CTC probability,
    all ways that are in the beam added up, and their log-probability under the language model.
    """
    first_child, last_child, token, first_word, word_list = trie
    nodes = len(token)
    vocabulary = np.int64(dense_end // 2 - 1)  # V + 1: an automaton of words has two dense rows
    # Sequences of words: 0 is the empty one.
    parent, word = np.full(1024, -1, np.int32), np.zeros(1024, np.int32)
    state, lm, count = np.empty(1024, np.int32), np.zeros(1024), np.zeros(1024, np.int32)
    state[0] = START
    sequences = 1
    known_keys, known = np.full(4096, -1), np.empty(4096, np.int32)

    beam_sequence, beam_node = np.zeros(beam, np.int32), np.zeros(beam, np.int32)
    beam_blank, beam_label = np.zeros(beam), np.zeros(beam)
    beam_blank[0], size = 1.0, 1
    # Prefixes of the next frame, found by a hash table of their sequence and node.
    sequence_of, node_of = np.empty(4 * beam, np.int32), np.empty(4 * beam, np.int32)
    blank, label = np.empty(4 * beam), np.empty(4 * beam)
    slots = 1024
    while slots < 8 * beam:
        slots *= 2
    place_keys, place, used = np.full(slots, -1), np.empty(slots, np.int32), np.empty(slots, np.int64)
    key = np.empty(4 * beam)
    probs = np.empty(log_probs.shape[1])
    targets, factors = np.empty(1, np.int32), np.empty(1)
    offset = 0.0

    for t in range(len(log_probs)):
        peak = log_probs[t].max()
        offset += peak
        best_label = 0.0
        for c in range(len(probs)):
            probs[c] = np.exp(np.float64(log_probs[t, c]) - peak)
            if c > 0:
                best_label = max(best_label, probs[c])
        found = 0
        # What is in the beam stays: a blank, or the last token again.
        lowest, highest = np.inf, 0.0
        for b in range(size):
            n = beam_node[b]
            sequence_of[found], node_of[found] = beam_sequence[b], n
            blank[found] = (beam_blank[b] + beam_label[b]) * probs[0]
            label[found] = beam_label[b] * probs[token[n]] if n != ROOT else 0.0
            stays = (blank[found] + label[found]) * ahead[n]
            lowest, highest = min(lowest, stays), max(highest, stays)
            at = _slot(place_keys, beam_sequence[b] * np.int64(nodes) + n)
            place_keys[at], place[at] = beam_sequence[b] * np.int64(nodes) + n, found
            used[found] = at
            found += 1
        threshold = max(lowest * _NEGLIGIBLE if size == beam else 0.0, highest * _MARGIN)

        for b in range(size):
            n, h = beam_node[b], beam_sequence[b]
            total = beam_blank[b] + beam_label[b]
            # Neither the look-ahead nor the language model raises a mass; the bonus may.
            if total * best_label * max(1.0, np.exp(bonus)) <= threshold:
                continue
            # Where the prefix goes on: in its word, and in what follows each word that ends here.
            ways = first_word[n + 1] - first_word[n] + 1
            if ways > len(targets):
                targets, factors = np.empty(ways, np.int32), np.empty(ways)
            targets[0], factors[0] = h, 1.0
            for w in range(1, ways):
                number = word_list[first_word[n] + w - 1]
                at = _slot(known_keys, h * vocabulary + number)
                if known_keys[at] == -1:
                    if sequences == len(parent):
                        parent, word, state = _doubled(parent), _doubled(word), _doubled(state)
                        lm, count = _doubled(lm), _doubled(count)
                    log_prob, state[sequences] = advance(cells, dense_end, state[h], number)
                    parent[sequences], word[sequences] = h, number
                    lm[sequences], count[sequences] = lm[h] + log_prob, count[h] + 1
                    known_keys[at], known[at] = h * vocabulary + number, sequences
                    sequences += 1
                    if 2 * sequences > len(known_keys):
                        known_keys, known = _grown_table(known_keys, known)
                        at = _slot(known_keys, h * vocabulary + number)
                targets[w] = known[at]
                factors[w] = np.exp(lm_weight * (lm[known[at]] - lm[h]) + bonus)
            for w in range(ways):
                low, high = (first_child[n], last_child[n]) if w == 0 else (first_child[ROOT], last_child[ROOT])
                factor = factors[w]
                if total * best_label * factor <= threshold:
                    continue
                to_silence = silence > 0 and (w > 0 or n == ROOT)
                for child in range(low - to_silence, high):
                    # The silence is tried before the first child.
                    m = AFTER_SILENCE if child < low else child
                    c = token[m]
                    mass = (beam_blank[b] if n != ROOT and c == token[n] else total) * probs[c] * factor
                    if mass * ahead[m] <= threshold or mass == 0.0:
                        continue
                    code = targets[w] * np.int64(nodes) + m
                    at = _slot(place_keys, code)
                    if place_keys[at] != -1:
                        label[place[at]] += mass
                        continue
                    if found == len(key):
                        sequence_of, node_of, key = _doubled(sequence_of), _doubled(node_of), _doubled(key)
                        blank, label = _doubled(blank), _doubled(label)
                    if found >= len(used) // 2:
                        place_keys, place = _grown_table(place_keys, place)
                        used = np.empty(len(place_keys), np.int64)
                        used[:found] = np.flatnonzero(place_keys != -1)
                        at = _slot(place_keys, code)
                    place_keys[at], place[at], used[found] = code, found, at
                    sequence_of[found], node_of[found] = targets[w], m
                    blank[found], label[found] = 0.0, mass
                    found += 1

        for i in range(found):
            place_keys[used[i]] = -1
            key[i] = (blank[i] + label[i]) * ahead[node_of[i]]
        best = key[:found].max()
        if not best > 0.0:
            return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0), np.zeros(0)
        bound = best * _MARGIN
        if found > beam:
            bound = max(bound, np.partition(key[:found], found - beam)[found - beam])
        size, ties = 0, beam
        for i in range(found):
            ties -= key[i] > bound
        for i in range(found):
            tie = key[i] == bound and ties > 0
            ties -= tie
            if key[i] > bound or tie:
                beam_sequence[size], beam_node[size] = sequence_of[i], node_of[i]
                beam_blank[size], beam_label[size] = blank[i] / best, label[i] / best
                size += 1
        offset += np.log(best)

    return _read_back(
        size, nbest, beam_sequence, beam_node, beam_blank + beam_label, offset, trie, cells, dense_end,
        parent, word, state, lm, count, lm_weight, bonus,
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _read_back(
    size, nbest, beam_sequence, beam_node, mass, offset, trie, cells, dense_end,
    parent, word, state, lm, count, lm_weight, bonus,
):
    """The prefixes that end with a whole word, added up by their words, as `search` returns them."""
    capacity = 0
    for b in range(size):
        capacity += 1 + trie.first_word[beam_node[b] + 1] - trie.first_word[beam_node[b]]
    before, last = np.empty(capacity, np.int64), np.zeros(capacity, np.int64)  # the words but the last, and that one
    ctc, language = np.empty(capacity), np.empty(capacity)
    found = 0
    for b in range(size):
        h, n = beam_sequence[b], beam_node[b]
        # The language model and the bonus are constant factors of a sequence's mass.
        own = offset + np.log(mass[b]) - lm_weight * lm[h] - bonus * count[h]
        if n in (ROOT, AFTER_SILENCE):
            before[found], last[found], ctc[found] = parent[h], word[h], own
            language[found] = lm[h] + advance(cells, dense_end, state[h], 0)[0]
            found += 1
        for k in range(trie.first_word[n], trie.first_word[n + 1]):
            log_prob, after = advance(cells, dense_end, state[h], trie.words[k])
            before[found], last[found], ctc[found] = h, trie.words[k], own
            language[found] = lm[h] + log_prob + advance(cells, dense_end, after, 0)[0]
            found += 1

    # Add up what has the same words.
    order = np.argsort(before[:found] * np.int64(1 << 32) + last[:found], kind="mergesort")
    merged = 0
    for k in range(found):
        i = order[k]
        if merged > 0:
            same = order[merged - 1]
            if before[same] == before[i] and last[same] == last[i]:
                high, low = max(ctc[same], ctc[i]), min(ctc[same], ctc[i])
                ctc[same] = high + np.log1p(np.exp(low - high)) if low > -np.inf else high
                continue
        order[merged] = i
        merged += 1
    order = order[:merged]

    lengths = np.zeros(merged, np.int64)
    scores = np.empty(merged)
    for k in range(merged):
        i = order[k]
        lengths[k] = 0 if before[i] < 0 else count[before[i]] + 1
        scores[k] = ctc[i] + lm_weight * language[i] + bonus * lengths[k]
    best = np.argsort(-scores, kind="mergesort")[:nbest]
    order, lengths = order[best], lengths[best]
    words = np.empty(lengths.sum(), np.int32)
    end = 0
    for k in range(len(order)):
        end += lengths[k]
        h, number = before[order[k]], last[order[k]]
        for at in range(end - 1, end - 1 - lengths[k], -1):
            words[at] = number
            if at > end - lengths[k]:
                number, h = word[h], parent[h]
    return lengths, words, ctc[order], language[order]
