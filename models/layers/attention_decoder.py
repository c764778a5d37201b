"""The attention speller of LAS (Chan et al. 2016, arXiv 1508.01211): predicts tokens one by one from listener states.

Two recurrent layers, each followed by attention over the states. The second layer also reads the first one's context,
so it knows how far the transcript has progressed. No context is fed back into the layer that produced its query, so
with teacher forcing whole hypotheses are scored in a few large operations instead of one token at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.layers.frames import LockedDropout
from models.layers.lengths import Lengths

# Class 0, CTC's blank, is not a token: here it marks the start and the end of a hypothesis.
END = 0

Cell = tuple[Tensor, Tensor]


class AttentionMemory(NamedTuple):
    """Keys and values `(N, T', A)` of both attention layers, and the mask `(N, T')` of valid frames."""

    keys: tuple[Tensor, Tensor]
    values: tuple[Tensor, Tensor]
    mask: Tensor

    def expand(self, count: int) -> AttentionMemory:
        """The memory of one utterance, expanded to a batch of `count` without copying."""

        def expanded(part: Tensor) -> Tensor:
            return part.expand(count, *part.shape[1:])

        keys, values = self.keys, self.values
        return AttentionMemory(
            (expanded(keys[0]), expanded(keys[1])), (expanded(values[0]), expanded(values[1])), expanded(self.mask)
        )


class Speller(nn.Module):
    """log P(token | previous tokens, states), where class 0 is the end of the hypothesis.

    The states are the encoder's outputs `(N, T', encoder_dim)`; `hidden` is the size of both LSTM layers and of the
    embedding, `attention` the dimension A of queries, keys and values.
    """

    def __init__(self, *, encoder_dim: int, classes: int, hidden: int, attention: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, hidden)
        self.lower = nn.LSTM(hidden, hidden, batch_first=True)
        self.upper = nn.LSTM(hidden + attention, hidden, batch_first=True)
        self.queries = nn.ModuleList(nn.Linear(hidden, attention) for _ in range(2))
        self.keys = nn.ModuleList(nn.Linear(encoder_dim, attention) for _ in range(2))
        self.values = nn.ModuleList(nn.Linear(encoder_dim, attention) for _ in range(2))
        self.output = nn.Linear(hidden + attention, classes)
        self.dropout = LockedDropout(dropout)

    def memory(self, states: Tensor, lengths: Tensor) -> AttentionMemory:
        """Keys, values and mask of states `(N, T', encoder_dim)` with lengths `(N,)` on the CPU."""
        keys = self.keys[0](states), self.keys[1](states)
        values = self.values[0](states), self.values[1](states)
        return AttentionMemory(keys, values, Lengths(lengths).mask(states.shape[1], states.device))

    def forward(
        self, memory: AttentionMemory, tokens: Tensor, cells: tuple[Cell, Cell] | None = None
    ) -> tuple[Tensor, tuple[Cell, Cell]]:
        """Log-probabilities `(N, L, C)` of the token after each of `tokens` `(N, L)`, and the cells after the last."""
        lower_cell, upper_cell = cells or (None, None)
        lower, lower_cell = self.lower(self.dropout(self.embedding(tokens)), lower_cell)
        lower = self.dropout(lower)
        context = self._attend(memory, 0, lower)
        upper, upper_cell = self.upper(torch.cat([lower, context], dim=2), upper_cell)
        upper = self.dropout(upper)
        scores = self.output(torch.cat([upper, self._attend(memory, 1, upper)], dim=2))
        return scores.float().log_softmax(dim=2), (lower_cell, upper_cell)

    def log_likelihood(self, memory: AttentionMemory, hypotheses: Sequence[Tensor]) -> Tensor:
        """log P(hypothesis and end | states) `(N,)`, one hypothesis `(L,)` per utterance of the memory."""
        device = memory.mask.device
        padded = [nn.functional.pad(tokens, (1, 0), value=END) for tokens in hypotheses]
        tokens = pad_sequence(padded, batch_first=True).to(device)
        # The next token at each position. The last one is followed by class 0, the end: padding, or rolled from the
        # start.
        following = tokens.roll(-1, dims=1)
        log_probs, _ = self(memory, tokens)
        chosen = log_probs.gather(2, following[:, :, None]).squeeze(2)
        sizes = Lengths(torch.tensor([len(tokens) for tokens in padded], device="cpu"))
        return (chosen * sizes.mask(chosen.shape[1], device)).sum(dim=1)

    def _attend(self, memory: AttentionMemory, layer: int, x: Tensor) -> Tensor:
        """The context `(N, L, A)` of queries from `x` `(N, L, hidden)`."""
        query, key = self.queries[layer](x), memory.keys[layer]
        scores = query @ key.transpose(1, 2) / math.sqrt(key.shape[2])
        weights = scores.masked_fill(~memory.mask[:, None, :], -torch.inf).softmax(dim=2)
        return weights @ memory.values[layer]
