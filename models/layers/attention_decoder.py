"""The attention speller of LAS (Chan et al. 2016, arXiv 1508.01211): one token after the other, from listener states.

Two recurrent layers, each followed by attention over the states; the second layer reads what the first attended to, so
it can tell how far it is. No context is fed back to the layer that asked for it, so under teacher forcing whole
strings are scored in a handful of large operations instead of one token at a time. It does not train or search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.layers.frames import LockedDropout, valid

# Class 0, CTC's blank, is no token: it begins every string and ends it.
END = 0


class AttentionMemory(NamedTuple):
    """Listener states made ready to be attended to: keys and values of both layers `(N, T', A)`, valid `(N, T')`."""

    keys: tuple[Tensor, Tensor]
    values: tuple[Tensor, Tensor]
    seen: Tensor


Cell = tuple[Tensor, Tensor]


class Speller(nn.Module):
    """log P(token | tokens before it, states), class 0 for the end."""

    def __init__(self, states: int, classes: int, hidden: int, attention: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, hidden)
        self.lower = nn.LSTM(hidden, hidden, batch_first=True)
        self.upper = nn.LSTM(hidden + attention, hidden, batch_first=True)
        self.queries = nn.ModuleList(nn.Linear(hidden, attention) for _ in range(2))
        self.keys = nn.ModuleList(nn.Linear(states, attention) for _ in range(2))
        self.values = nn.ModuleList(nn.Linear(states, attention) for _ in range(2))
        self.output = nn.Linear(hidden + attention, classes)
        self.dropout = LockedDropout(dropout)

    def memory(self, states: Tensor, lengths: Tensor) -> AttentionMemory:
        """States `(N, T', D)`, lengths `(N,)` made ready."""
        keys = tuple(layer(states) for layer in self.keys)
        values = tuple(layer(states) for layer in self.values)
        return AttentionMemory(keys, values, valid(lengths, states.shape[1]))

    def forward(
        self, memory: AttentionMemory, tokens: Tensor, cells: tuple[Cell, Cell] | None = None
    ) -> tuple[Tensor, tuple[Cell, Cell]]:
        """Log-probabilities `(N, L, C)` of what follows each of `tokens` `(N, L)`, and the cells to go on from."""
        lower_cell, upper_cell = cells or (None, None)
        low, lower_cell = self.lower(self.dropout(self.embedding(tokens)), lower_cell)
        low = self.dropout(low)
        heard = self._attend(memory, 0, low)
        high, upper_cell = self.upper(torch.cat([low, heard], dim=2), upper_cell)
        high = self.dropout(high)
        scores = self.output(torch.cat([high, self._attend(memory, 1, high)], dim=2))
        return scores.float().log_softmax(dim=2), (lower_cell, upper_cell)

    def log_likelihood(self, memory: AttentionMemory, targets: Sequence[Tensor]) -> Tensor:
        """log P(string and end | states) `(N,)` of one string `(L,)` a row of the memory."""
        device = memory.seen.device
        tokens = pad_sequence([nn.functional.pad(t, (1, 0), value=END) for t in targets], batch_first=True).to(device)
        # What follows a string's last token is padding, and so is what begins it: class 0, the end.
        following = tokens.roll(-1, dims=1)
        log_probs, _ = self(memory, tokens)
        chosen = log_probs.gather(2, following[:, :, None]).squeeze(2)
        sizes = torch.tensor([len(target) + 1 for target in targets], device=device)
        return (chosen * valid(sizes, chosen.shape[1])).sum(dim=1)

    def _attend(self, memory: AttentionMemory, layer: int, x: Tensor) -> Tensor:
        query, key = self.queries[layer](x), memory.keys[layer]
        scores = query @ key.transpose(1, 2) / math.sqrt(key.shape[2])
        shares = scores.masked_fill(~memory.seen[:, None, :], -torch.inf).softmax(dim=2)
        return shares @ memory.values[layer]
