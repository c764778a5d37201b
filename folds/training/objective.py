"""What training minimises: CTC on the output and, weighted, on a middle layer.

Intermediate CTC is of Lee & Watanabe 2021 (arXiv 2102.03216). Two views of an utterance may be asked to agree (CR-CTC).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from folds.data.batches import Batch
from models import BLANK, CTCNetwork
from models.layers.frames import valid


def ctc(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """CTC loss in nats a label: log-probabilities `(N, T', C)`, lengths `(N,)` → a scalar.

    The batch's sum over its labels, rather than a mean of utterances' means: batches bounded by frames hold unequal
    numbers of utterances, and every label should weigh the same.
    """
    loss = functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths, blank=BLANK, reduction="sum"
    )
    return loss / batch.target_lengths.sum()


def objective(
    model: CTCNetwork, batch: Batch, *, intermediate: float, consistency: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(what is minimised, the output's own CTC loss), both in nats a label.

    With `consistency`, the batch is two views of the same utterances, one after the other.
    """
    heads = model.training_outputs(batch.features, batch.lengths)
    loss = total = ctc(heads.log_probs, heads.lengths, batch)
    if intermediate:
        total = (1 - intermediate) * loss + intermediate * ctc(heads.middle, heads.middle_lengths, batch)
    if consistency:
        total = total + consistency * disagreement(heads.log_probs, heads.lengths) / batch.target_lengths.sum()
    more = model.auxiliary_loss(heads, batch.targets, batch.target_lengths)
    if more is not None:
        total = (1 - more[0]) * total + more[0] * more[1]
    return total, loss.detach()


class Objective(nn.Module):
    """`objective` as a module, so that the gradients of several processes can be averaged around it."""

    def __init__(self, model: CTCNetwork, *, intermediate: float, consistency: float) -> None:
        super().__init__()
        self.model = model
        self.intermediate = intermediate
        self.consistency = consistency
        # A head that no loss reads has no gradient to wait for.
        model.middle.requires_grad_(intermediate > 0)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `objective`."""
        return objective(self.model, batch, intermediate=self.intermediate, consistency=self.consistency)


def disagreement(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Sum over valid frames of KL(the other view, held fixed || this view), for both views of `(2 N, T', C)`.

    The consistency loss of CR-CTC (Yao et al. 2024, arXiv 2410.05101).
    """
    other = log_probs.detach().roll(len(log_probs) // 2, dims=0)
    by_frame = functional.kl_div(log_probs, other, reduction="none", log_target=True).sum(dim=2)
    return (by_frame * valid(lengths, log_probs.shape[1])).sum()


def log_prior(labels: Tensor, classes: int, frames: int) -> Tensor:
    """Log-frequency of each class `(C,)` when `labels` are spread over `frames` output frames and the rest is blank."""
    counts = torch.bincount(labels.long(), minlength=classes).double() + 1.0
    counts[BLANK] = max(float(frames - len(labels)), 1.0)
    return (counts / counts.sum()).log().float()
