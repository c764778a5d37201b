"""ROVER: align systems' hypotheses to a confusion network, and let them vote slot by slot.

Fiscus, "A post-processing system to yield reduced word error rates: Recognizer Output Voting Error Reduction" (ASRU
1997). Alignment costs, voting formulas and tie-breaking are those of SCTK, NIST's implementation. `rover` is the
function for lists of tokens; the blender of the same name fits the scheme, the weights and the confidence of the null
on out-of-fold predictions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numba
import numpy as np

from folds.store.ragged import Ragged

Token = TypeVar("Token", bound=Hashable)

NULL = -1
METHODS = ("meth1", "maxconf", "avgconf")
# Moves of the alignment: a token and a slot, a slot without a token, a token in a new slot.
_ALIGN, _SKIP, _INSERT = range(3)


@dataclass(frozen=True)
class ConfusionNetwork:
    """The hypotheses of several systems for one utterance, aligned in slots."""

    arcs: np.ndarray
    """The tokens, (slots, systems) int32; NULL if a system has none."""
    confidences: np.ndarray
    """Their confidences from 0 to 1, (slots, systems) float64; 0 for NULL, whose confidence is set by the vote."""


class _Network(NamedTuple):
    """A network under construction, system by system, with room for as many slots as there are tokens."""

    arcs: np.ndarray  # (capacity, systems) int32
    confidences: np.ndarray  # (capacity, systems) float64
    present: np.ndarray  # (capacity, C) bool, whether a slot has the token
    has_null: np.ndarray  # (capacity,) bool


def rover(
    hypotheses: Sequence[Sequence[Token]],
    confidences: Sequence[Sequence[float]] | None = None,
    method: str = "avgconf",
    alpha: float = 1.0,
    null_confidence: float = 0.0,
) -> list[Token]:
    """Combine several systems' hypotheses, best system first, because the network is built on the first one.

    `confidences` holds one number in 0..1 per token; `method` is meth1, maxconf or avgconf (see `vote`), `alpha` the
    weight of vote counts relative to confidences. Ties go to the token of the earliest system, so a tie can delete as
    well as insert. Raises ValueError for no hypotheses, an unknown method, or confidences of other lengths.

    >>> "".join(rover(["speech", "spech", "peech"]))
    'speech'
    """
    if not hypotheses:
        raise ValueError("rover: no hypotheses")
    if method not in METHODS:
        raise ValueError(f"rover: the method is one of {', '.join(METHODS)}, not {method!r}")
    if confidences is not None and [len(c) for c in confidences] != [len(h) for h in hypotheses]:
        raise ValueError("rover: every token needs one confidence")
    vocabulary: dict[Token, int] = {}
    numbered = [[vocabulary.setdefault(token, len(vocabulary)) for token in h] for h in hypotheses]
    winners, _ = vote(align(numbered, confidences), method, alpha, null_confidence)
    tokens = list(vocabulary)
    return [tokens[winner] for winner in winners if winner != NULL]


def align(
    hypotheses: Sequence[Sequence[int]], confidences: Sequence[Sequence[float]] | None = None
) -> ConfusionNetwork:
    """Build the network of an utterance; the first hypothesis is the skeleton, so pass the best system first.

    Tokens are integers from 0. Without confidences every token has confidence 1.

    >>> align([[1, 2, 3], [1, 3]]).arcs.tolist()
    [[1, 1], [2, -1], [3, 3]]
    """
    tokens = Ragged.of(hypotheses, np.int32)
    flat = np.ones(len(tokens.values)) if confidences is None else Ragged.of(confidences, np.float64).values
    classes = int(tokens.values.max(initial=0)) + 1
    return ConfusionNetwork(*_align(tokens.values, flat, tokens.offsets, classes))


def vote(
    network: ConfusionNetwork,
    method: str = "avgconf",
    alpha: float = 1.0,
    null_confidence: float = 0.0,
    weights: Sequence[float] | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The winner of each slot, and every arc's score.

    Returns winners (slots,) int32, NULL if the null wins, and scores (slots, systems): in each cell the score of that
    cell's token. With N(w) votes for token w among Narc arcs, and its confidences c:

        meth1    alpha * N(w)/Narc + (1 - alpha) * sum(c)/N(w)
        maxconf  alpha * N(w)/Narc + (1 - alpha) * max(c)
        avgconf  alpha * N(w)/Narc + (1 - alpha) * sum(c)/sum(all c)

    A system with weight w counts as w systems with the same hypothesis; a weight of zero excludes the column from the
    vote. Ties go to the token of the earliest system, as in SCTK.
    """
    systems = network.arcs.shape[1]
    system_weights = np.ones(systems) if weights is None else np.asarray(weights, np.float64)
    return _vote(
        network.arcs, network.confidences, METHODS.index(method), float(alpha), float(null_confidence), system_weights
    )


def as_log_probs(arcs: np.ndarray, scores: np.ndarray, classes: int) -> np.ndarray:
    """A network's `arcs` as a CTC matrix (2 * slots - 1, classes), from which a beam search reads hypotheses.

    One row per slot, with the null as blank, and between two slots a row in which the blank has probability 1. `scores`
    (slots, systems) are those of `vote`; they are normalised over the distinct tokens of each slot, which are equally
    likely if all scores are 0. An empty network gives a single blank row.
    """
    return _matrix(arcs, scores, classes)


@numba.njit(cache=True, nogil=True)
def _align(tokens, confidences, offsets, classes):
    """The network's arcs and confidences, from the systems' concatenated `tokens`."""
    systems = len(offsets) - 1
    capacity = len(tokens)
    network = _Network(
        np.full((capacity, systems), NULL, np.int32),
        np.zeros((capacity, systems)),
        np.zeros((capacity, classes), np.bool_),
        np.zeros(capacity, np.bool_),
    )
    slots = offsets[1]
    for k in range(slots):
        network.arcs[k, 0], network.confidences[k, 0] = tokens[k], confidences[k]
        network.present[k, tokens[k]] = True
    for system in range(1, systems):
        start, stop = offsets[system], offsets[system + 1]
        moves = _moves(network.present, network.has_null, slots, tokens[start:stop])
        slots = _merge(network, slots, system, tokens[start:stop], confidences[start:stop], moves)
    return network.arcs[:slots].copy(), network.confidences[:slots].copy()


@numba.njit(cache=True, nogil=True)
def _moves(present, has_null, slots, tokens):
    """Dynamic programming with SCTK's costs and tie-breaking: align, then insert, then skip the slot."""
    length = len(tokens)
    cost = np.zeros((slots + 1, length + 1))
    moves = np.zeros((slots + 1, length + 1), np.int8)  # _ALIGN, unless overwritten
    for j in range(1, length + 1):
        cost[0, j] = 3.0 * j
        moves[0, j] = _INSERT
    for i in range(1, slots + 1):
        skip = 0.001 if has_null[i - 1] else 3.0
        other = 1.0 if has_null[i - 1] else 4.0
        cost[i, 0] = cost[i - 1, 0] + skip
        moves[i, 0] = _SKIP
        for j in range(1, length + 1):
            align = cost[i - 1, j - 1] + (0.0 if present[i - 1, tokens[j - 1]] else other)
            delete = cost[i - 1, j] + skip
            insert = cost[i, j - 1] + 3.0
            if align <= delete and align <= insert:
                cost[i, j] = align
            elif delete < insert:
                cost[i, j] = delete
                moves[i, j] = _SKIP
            else:
                cost[i, j] = insert
                moves[i, j] = _INSERT
    return moves


@numba.njit(cache=True, nogil=True)
def _merge(network, slots, system, tokens, confidences, moves):
    """Add a system to the network of the previous ones, along the best path of `moves`; returns the number of slots."""
    arcs, held, present, has_null = network
    i, j, count = slots, len(tokens), _path_length(moves)
    if count > len(arcs):
        raise AssertionError("align: more slots than tokens")
    # The path is traced back from its end, so slots move towards the end, the last one first.
    for at in range(count - 1, -1, -1):
        move = moves[i, j]
        if move == _INSERT:
            arcs[at, :system] = NULL
            held[at, :system] = 0.0
            present[at] = False
            has_null[at] = True
        else:
            i -= 1
            if at != i:
                arcs[at] = arcs[i]
                held[at] = held[i]
                present[at] = present[i]
                has_null[at] = has_null[i]
        if move == _SKIP:
            has_null[at] = True  # a system's column is filled with nulls from the start
        else:
            j -= 1
            arcs[at, system] = tokens[j]
            held[at, system] = confidences[j]
            present[at, tokens[j]] = True
    return count


@numba.njit(cache=True, nogil=True)
def _path_length(moves):
    """The number of slots of the merged network."""
    i, j, count = moves.shape[0] - 1, moves.shape[1] - 1, 0
    while i > 0 or j > 0:
        move = moves[i, j]
        i -= move != _INSERT
        j -= move != _SKIP
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _vote(arcs, confidences, method, alpha, null_confidence, weights):
    slots, systems = arcs.shape
    winners = np.full(slots, NULL, np.int32)
    scores = np.zeros((slots, systems))
    votes_in_all = weights.sum()
    for slot in range(slots):
        total = 0.0
        for s in range(systems):
            total += weights[s] * (null_confidence if arcs[slot, s] == NULL else confidences[slot, s])
        best = -1.0
        for s in range(systems):
            if weights[s] <= 0.0:
                continue
            token = arcs[slot, s]
            votes, summed, largest = 0.0, 0.0, 0.0
            for r in range(systems):
                if arcs[slot, r] == token and weights[r] > 0.0:
                    c = null_confidence if token == NULL else confidences[slot, r]
                    votes += weights[r]
                    summed += weights[r] * c
                    largest = max(largest, c)
            vote_fraction = votes / votes_in_all
            if method == 0:
                trust = summed / votes
            elif method == 1:
                trust = largest
            else:
                trust = summed / total if total > 0.0 else 0.0
            score = alpha * vote_fraction + (1.0 - alpha) * trust
            scores[slot, s] = score
            # Without the margin, rounding would decide between tokens with equal votes.
            if score > best + 1e-12:
                best = score
                winners[slot] = token
    return winners, scores


@numba.njit(cache=True, nogil=True)
def _matrix(arcs, scores, classes):
    slots, systems = arcs.shape
    out = np.full((max(2 * slots - 1, 1), classes), -np.inf, np.float32)
    for slot in range(slots):
        if slot > 0:
            out[2 * slot - 1, 0] = 0.0
        row = np.zeros(classes)
        scored = scores[slot].max() > 0.0
        for s in range(systems):
            token = arcs[slot, s]
            c = 0 if token == NULL else token
            row[c] = max(row[c], scores[slot, s]) if scored else 1.0  # systems without weight have no score
        total = row.sum()
        for token in range(classes):
            if row[token] > 0.0:
                out[2 * slot, token] = np.log(row[token] / total)
    if slots == 0:
        out[0, 0] = 0.0
    return out
