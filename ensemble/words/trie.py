"""The prefix tree of a lexicon's pronunciations, in flat arrays for compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ensemble.words.lexicon import Lexicon
from folds.store.ragged import offsets_of

ROOT, AFTER_SILENCE = 0, 1
"""The start of a word, without and with a silence before it; both have the same children."""


class LexiconTree(NamedTuple):
    """Nodes sorted by parent, so that the children of a node are contiguous.

    The children of node n are `range(first_child[n], last_child[n])`; `token` `(nodes,)` is the phoneme that leads to a
    node (0 for `ROOT`, the silence for `AFTER_SILENCE`). The words that end at node n are
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
    node = np.zeros(len(lengths), np.int64)  # the node that each pronunciation has reached
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
    parent = np.concatenate(parents)[2:]  # ascending, because each level is sorted and follows the one above
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
    """For each node, the highest of `log_probs` `(V + 1,)` among the words that end at it or below it, `(nodes,)`."""
    count = len(trie.token)
    best = np.full(count, -np.inf)
    for node in range(count - 1, -1, -1):
        for k in range(trie.first_word[node], trie.first_word[node + 1]):
            best[node] = max(best[node], log_probs[trie.words[k]])
        for child in range(trie.first_child[node], trie.last_child[node]):
            best[node] = max(best[node], best[child])
    return best
