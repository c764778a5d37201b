"""Pools: for each utterance the union of all members' N-best, with every model's exact log-likelihood of each string.

A pool holds what a search over weights asks again and again (scores, lengths, distances to the reference) in flat
arrays, so that a trial of new weights is one product and one maximum. Hypotheses of an utterance stand in the order
of their tokens, so a pool does not depend on the order of the members. It chooses nothing: `rescore` and `mbr` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from tqdm import tqdm

from folds.store import LogProbs
from models.ctc import log_likelihood

from .beam import beam_search
from .edits import fill_pairs, flatten, to_references
from .lm import PhoneLM, sum_tokens

BATCH = 64
# A hypothesis that does not fit a member's frames has likelihood zero there. One member must not veto what the others
# agree on, so no member may disbelieve a string more than this below the best of the pool.
DISBELIEF = 50.0
# Fusion of the search that proposes strings with a language model: near the best of single members out of fold on real
# speech. Rescoring the plain N-best alone gets a third of what fusion gets, for the strings it wants are not there.
PROPOSING = {"lm_weight": 0.45, "length_bonus": 1.0}


@dataclass(frozen=True)
class NBest:
    """One stream's N-best: per utterance the strings (class numbers as bytes), best first.

    `scores` are what ranks them, `ctc` their log-likelihoods under the stream (the same without a language model), and
    `confidences` those of the best string's tokens, for ROVER.
    """

    strings: list[tuple[bytes, ...]]
    scores: list[np.ndarray]
    ctc: list[np.ndarray]
    confidences: list[np.ndarray]

    def take(self, rows: Sequence[int]) -> NBest:
        columns = (self.strings, self.scores, self.ctc, self.confidences)
        return NBest(*([column[row] for row in rows] for column in columns))


@dataclass(frozen=True)
class Pool:
    """Hypotheses of N utterances in flat arrays; utterance u has hypotheses `offsets[u]:offsets[u + 1]`.

    `tokens` int16 with `token_offsets` (H + 1,); `ctc` (H, streams) float64 log-likelihoods; `lm` (H,) the phone
    language model's log-probability; `spelled` (H,) the attention spellers', zeros without any; `distance` (H,) edits
    to the reference, None where there is none.
    """

    offsets: np.ndarray
    tokens: np.ndarray
    token_offsets: np.ndarray
    ctc: np.ndarray
    lm: np.ndarray
    spelled: np.ndarray
    distance: np.ndarray | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.token_offsets)

    def hypotheses(self, utterance: int) -> list[list[int]]:
        """The strings of one utterance."""
        span = range(self.offsets[utterance], self.offsets[utterance + 1])
        return [self.tokens[self.token_offsets[h] : self.token_offsets[h + 1]].tolist() for h in span]

    def strings(self, chosen: np.ndarray) -> list[list[int]]:
        """The strings of flat hypothesis numbers (N,)."""
        return [self.tokens[self.token_offsets[h] : self.token_offsets[h + 1]].tolist() for h in chosen]

    def take(self, rows: Sequence[int]) -> Pool:
        """The pool of some utterances."""
        keep = np.concatenate([np.arange(self.offsets[u], self.offsets[u + 1]) for u in rows]).astype(np.int64)
        sizes = self.lengths[keep]
        token_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        at = np.repeat(self.token_offsets[keep] - token_offsets[:-1], sizes) + np.arange(token_offsets[-1])
        offsets = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[list(rows)])]).astype(np.int64)
        told = None if self.distance is None else self.distance[keep]
        return Pool(offsets, self.tokens[at], token_offsets, self.ctc[keep], self.lm[keep], self.spelled[keep], told)


def nbest_of(
    log_probs: LogProbs,
    depth: int,
    what: str = "",
    languages: Sequence[PhoneLM] | None = None,
    parts: np.ndarray | None = None,
) -> NBest:
    """The `depth`-best strings of every utterance under one stream; fused with `languages[parts[u]]` where given."""
    parts = np.zeros(len(log_probs), np.int64) if languages is None else np.asarray(parts)
    found: dict[int, tuple[tuple[bytes, ...], np.ndarray, np.ndarray, np.ndarray]] = {}
    with tqdm(total=len(log_probs), desc=f"beam {what}", unit="utt", leave=False) as bar:
        for part in np.unique(parts):
            fusion = {} if languages is None else {"lm": languages[part], **PROPOSING}
            mine = np.flatnonzero(parts == part)
            mine = mine[np.argsort(log_probs.lengths[mine], kind="stable")]
            for start in range(0, len(mine), BATCH):
                rows = mine[start : start + BATCH].tolist()
                decoded = beam_search(*log_probs.padded(rows), beam=depth, nbest=depth, **fusion)
                for row, hypotheses in zip(rows, decoded, strict=True):
                    found[row] = (
                        tuple(bytes(h.tokens) for h in hypotheses),
                        np.array([h.score for h in hypotheses]),
                        np.array([h.ctc for h in hypotheses]),
                        np.array(hypotheses[0].confidences),
                    )
                bar.update(len(rows))
    columns = zip(*(found[row] for row in range(len(log_probs))), strict=True)
    return NBest(*(list(column) for column in columns))


def union(lists: Sequence[NBest], size: int) -> list[list[bytes]]:
    """Per utterance the `size` strings with the largest mean posterior over the lists, in the order of their tokens.

    A string's posterior in a list is its share of that list's mass, so what one member is sure of stays in.
    """
    pools = []
    for row in range(len(lists[0].strings)):
        mass: dict[bytes, float] = {}
        for each in lists:
            shares = np.exp(each.scores[row] - each.scores[row].max())
            for string, share in zip(each.strings[row], (shares / shares.sum()).tolist(), strict=True):
                mass[string] = mass.get(string, 0.0) + share
        best = sorted(mass, key=lambda s: (-mass[s], s))[:size]
        pools.append(sorted(best))
    return pools


def likelihoods(log_probs: LogProbs, pools: Sequence[Sequence[bytes]], known: np.ndarray, what: str = "") -> np.ndarray:
    """Exact log P(string | utterance) of every string of every pool under one stream, flat (H,) float64.

    `known` (H,) holds what has been worked out before and NaN elsewhere; only the latter is computed.
    """
    offsets = np.concatenate([[0], np.cumsum([len(pool) for pool in pools])]).astype(np.int64)
    out = known.copy()

    def one(row: int) -> None:
        span = out[offsets[row] : offsets[row + 1]]
        unknown = np.flatnonzero(np.isnan(span))
        if len(unknown):
            span[unknown] = log_likelihood(log_probs[row], [list(pools[row][i]) for i in unknown])

    with ThreadPoolExecutor(numba.get_num_threads()) as threads:
        for _ in tqdm(threads.map(one, range(len(pools))), f"score {what}", len(pools), leave=False, unit="utt"):
            pass
    return out


def look_up(pools: Sequence[Sequence[bytes]], other: Sequence[Sequence[bytes]], values: np.ndarray) -> np.ndarray:
    """Values (H,) for the strings of `pools` from those of `other` pools of the same utterances; else NaN."""
    out, start = [], 0
    for wanted, there in zip(pools, other, strict=True):
        table = dict(zip(there, values[start : start + len(there)].tolist(), strict=True))
        out += [table.get(string, np.nan) for string in wanted]
        start += len(there)
    return np.array(out)


def build_pool(
    pools: Sequence[Sequence[bytes]],
    ctc: np.ndarray,
    languages: Sequence[PhoneLM],
    parts: np.ndarray,
    references: Sequence[Sequence[int]] | None,
    spelled: np.ndarray | None = None,
) -> Pool:
    """Pack strings and their (H, streams) log-likelihoods; `languages[parts[u]]` scores utterance u.

    `spelled` (H,) are the spellers' log-likelihoods, where there are any.
    """
    offsets = np.concatenate([[0], np.cumsum([len(pool) for pool in pools])]).astype(np.int64)
    flat = [string for pool in pools for string in pool]
    tokens = np.frombuffer(b"".join(flat), np.uint8).astype(np.int16)
    token_offsets = np.concatenate([[0], np.cumsum([len(s) for s in flat])]).astype(np.int64)
    rows = np.repeat(np.arange(len(pools)), np.diff(offsets))
    lm = np.zeros(len(flat))
    for part, language in enumerate(languages):
        mine = np.flatnonzero(np.asarray(parts)[rows] == part)
        sizes = np.diff(token_offsets)[mine]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        symbols = tokens[np.repeat(token_offsets[mine], sizes) + within].astype(np.int64)
        lm[mine] = sum_tokens(language.log_probs, language.next_state, symbols, sizes)
    told = None
    if references is not None:
        told = to_references(tokens, token_offsets, rows, *flatten(references))
    spelled = np.zeros(len(flat)) if spelled is None else spelled
    return Pool(offsets, tokens, token_offsets, disbelieved(ctc, offsets), lm, spelled, told)


def disbelieved(ctc: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Log-likelihoods (H, streams) floored `DISBELIEF` below the best of their pool.

    They are 0 where a stream finds no string of the pool possible, so that it has no say.
    """
    best = np.repeat(np.maximum.reduceat(ctc, offsets[:-1], axis=0), np.diff(offsets), axis=0)
    return np.where(np.isfinite(best), np.maximum(ctc, best - DISBELIEF), 0.0)


class Mixture:
    """Every hypothesis's combined log-likelihood (H,) as a function of member weights (members,) that sum to 1.

    "geometric" is the weighted mean of log-likelihoods, "arithmetic" the logarithm of the weighted mean likelihood.
    Either is one product a call: a search calls it thousands of times.
    """

    def __init__(self, pool: Pool, member_of: Sequence[int], mean: str) -> None:
        self.member_of, self.mean = member_of, mean
        self.peaks = pool.ctc.max(axis=1) if mean == "arithmetic" else 0.0
        self.columns = np.exp(pool.ctc - self.peaks[:, None]) if mean == "arithmetic" else pool.ctc

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        mixed = self.columns @ stream_weights(self.member_of, weights)
        return mixed if self.mean == "geometric" else self.peaks + np.log(np.maximum(mixed, 1e-300))


def stream_weights(member_of: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """Stream weights (streams,): a member's weight shared equally by its fold models, since OOF cannot rank those."""
    member_of = np.asarray(member_of)
    counts = np.bincount(member_of, minlength=len(weights))
    return np.asarray(weights, np.float64)[member_of] / counts[member_of]


@numba.njit(cache=True, nogil=True)
def highest(scores, offsets):
    """Flat number (N,) of each utterance's best-scored hypothesis; on a tie the first in the order of tokens."""
    chosen = np.zeros(len(offsets) - 1, np.int64)
    for u in range(len(chosen)):
        best = offsets[u]
        for h in range(offsets[u] + 1, offsets[u + 1]):
            if scores[h] > scores[best] + 1e-9:
                best = h
        chosen[u] = best
    return chosen


def choose(pool: Pool, settings: dict) -> np.ndarray:
    """Flat numbers (N,) of the best of a pool of one column, with the settings' LM weight and length bonus."""
    scores = pool.ctc[:, 0] + settings["lm_weight"] * pool.lm + settings["length_bonus"] * pool.lengths
    return highest(scores, pool.offsets)


def pair_distances(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Edit distances between all hypotheses of an utterance, flat uint8 (capped at 255), and the offsets (N + 1,)."""
    sizes = np.diff(pool.offsets)
    offsets = np.concatenate([[0], np.cumsum(sizes**2)]).astype(np.int64)
    return _pairs(pool.tokens, pool.token_offsets, pool.offsets, offsets), offsets


@numba.njit(cache=True, nogil=True, parallel=True)
def _pairs(tokens, token_offsets, offsets, pair_offsets):
    out = np.zeros(pair_offsets[-1], np.uint8)
    for u in numba.prange(len(offsets) - 1):
        first, last = offsets[u], offsets[u + 1]
        square = out[pair_offsets[u] : pair_offsets[u + 1]].reshape((last - first, last - first))
        fill_pairs(tokens, token_offsets[first : last + 1], square)
    return out


@numba.njit(cache=True, nogil=True, parallel=True)
def least_risk(scores, offsets, pairs, pair_offsets):
    """Flat number (N,) of each utterance's hypothesis of least expected distance, and that expectation (N,).

    `scores` (H,) are log-posteriors up to a constant. Ties go to the higher score, then to the order of tokens.
    """
    chosen = np.zeros(len(offsets) - 1, np.int64)
    risks = np.zeros(len(offsets) - 1)
    for u in numba.prange(len(chosen)):
        first, count = offsets[u], offsets[u + 1] - offsets[u]
        posterior = np.exp(scores[first : first + count] - scores[first : first + count].max())
        posterior /= posterior.sum()
        # The likeliest first, on both sides: the bound is tight at once, and most candidates pass it after a few terms.
        order = np.argsort(-posterior)
        best, least = -1, np.inf
        for i in order:
            risk = 0.0
            for j in order:
                risk += posterior[j] * pairs[pair_offsets[u] + i * count + j]
                # What is left of the mass is too little to change an expectation.
                if risk > least + 1e-9 or posterior[j] < 1e-9:
                    break
            equal = abs(risk - least) <= 1e-9
            if equal and (posterior[i], -i) > (posterior[best], -best) or risk < least - 1e-9:
                best, least = i, risk
        chosen[u] = first + best
        risks[u] = least
    return chosen, risks
