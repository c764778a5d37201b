"""Pools: for each utterance the union of all members' N-best, with every model's exact log-likelihood of each string.

A pool holds what a search over weights asks again and again (scores, lengths, distances to the reference) in flat
arrays, so that a trial of new weights is one product and one maximum. Hypotheses of an utterance stand in the order
of their tokens, so a pool does not depend on the order of the members. It chooses nothing: `rescore` and `mbr` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.hypotheses.edit_distance import flatten, to_references
from ensemble.hypotheses.likelihoods import floor_likelihoods
from ensemble.lm.ngram import PhoneLM, sum_tokens


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
    return Pool(offsets, tokens, token_offsets, floor_likelihoods(ctc, offsets), lm, spelled, told)
















