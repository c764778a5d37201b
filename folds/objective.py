"""What training minimises: CTC on the output and, weighted, on a middle layer.

Intermediate CTC is of Lee & Watanabe 2021 (arXiv 2102.03216).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models import BLANK, CTCNetwork

from .batches import Batch


def ctc(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """CTC loss in nats a label: log-probabilities `(N, T', C)`, lengths `(N,)` → a scalar.

    The batch's sum over its labels, rather than a mean of utterances' means: batches bounded by frames hold unequal
    numbers of utterances, and every label should weigh the same.
    """
    loss = functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths, blank=BLANK, reduction="sum"
    )
    return loss / batch.target_lengths.sum()


def objective(model: CTCNetwork, batch: Batch, *, intermediate: float) -> tuple[Tensor, Tensor]:
    """(what is minimised, the output's own CTC loss), both in nats a label."""
    log_probs, lengths, middle, middle_lengths = model.heads(batch.features, batch.lengths)
    loss = ctc(log_probs, lengths, batch)
    if not intermediate:
        return loss, loss.detach()
    return (1 - intermediate) * loss + intermediate * ctc(middle, middle_lengths, batch), loss.detach()


def log_prior(labels: Tensor, classes: int, frames: int) -> Tensor:
    """Log-frequency of each class `(C,)` when `labels` are spread over `frames` output frames and the rest is blank."""
    counts = torch.bincount(labels.long(), minlength=classes).double() + 1.0
    counts[BLANK] = max(float(frames - len(labels)), 1.0)
    return (counts / counts.sum()).log().float()
