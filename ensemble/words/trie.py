"""The prefix tree of a lexicon's pronunciations, in flat arrays for compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ensemble.words.lexicon import Lexicon
from folds.store.ragged import offsets_of

ROOT, AFTER_SILENCE = 0, 1
"""The start of a word, at the start of the utterance and behind the silence; both have the same children."""


class LexiconTree(NamedTuple):
    """Nodes in order of their parents, so that the children of a node are a range.

    `first_child` and `last_child` `(nodes,)` are that range, `token` `(nodes,)` the phoneme that leads to a node (0 for
    the root, the silence for the node behind it). The words that end in node n are
    `words[first_word[n]:first_word[n + 1]]`.
    """

    first_child: np.ndarray
    last_child: np.ndarray
    token: np.ndarray
    first_word: np.ndarray
    words: np.ndarray


def build_trie(lexicon: Lexicon, silence: int) -> LexiconTree:
    """The tree of all pronunciations, level by level; `silence` is the class between words, 0 for none."""
    values, offsets = lexicon.pronunciations.values.astype(np.int64), lexicon.pronunciations.offsets
    lengths = lexicon.pronunciations.lengths
    node = np.zeros(len(lengths), np.int64)  # where each pronunciation has arrived
    classes = int(values.max()) + 1
    parents, tokens = [np.array([-1, -1])], [np.array([0, silence])]
    count = 2
    for depth in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > depth)
        keys, arrived = np.unique(node[longer] * classes + values[offsets[longer] + depth], return_inverse=True)
        node[longer] = count + arrived
        parents.append(keys // classes)
        tokens.append(keys % classes)
        count += len(keys)
    parent = np.concatenate(parents)[2:]  # ascending, because each level is sorted and behind the one before
    nodes = np.arange(count)
    first, last = 2 + np.searchsorted(parent, nodes), 2 + np.searchsorted(parent, nodes, side="right")
    first[AFTER_SILENCE], last[AFTER_SILENCE] = first[ROOT], last[ROOT]
    order = np.lexsort((lexicon.word_of, node))
    return LexiconTree(
        first.astype(np.int32),
        last.astype(np.int32),
        np.concatenate(tokens).astype(np.int32),
        offsets_of(np.bincount(node, minlength=count)).astype(np.int32),
        lexicon.word_of[order].astype(np.int32),
    )


@njit(nogil=True, cache=True)
def best_word_below(trie, log_probs):
    """The highest of the words' `log_probs` `(V + 1,)` among those that end in each node or below it, `(nodes,)`."""
    count = len(trie.token)
    best = np.full(count, -np.inf)
    for node in range(count - 1, -1, -1):
        for k in range(trie.first_word[node], trie.first_word[node + 1]):
            best[node] = max(best[node], log_probs[trie.words[k]])
        for child in range(trie.first_child[node], trie.last_child[node]):
            best[node] = max(best[node], best[child])
    return best
