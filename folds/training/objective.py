"""The training objective: CTC on the output; optionally intermediate CTC, consistency of two views, guide and teacher.

Intermediate CTC: Lee & Watanabe 2021 (arXiv 2102.03216). Consistency of two views, CR-CTC: Yao et al. 2024 (arXiv
2410.05101). Guided CTC: Kurata & Audhkhasi 2019 (arXiv 1904.08311). A teacher's hypotheses: Kim & Rush 2016 (arXiv
1606.07947).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from folds.data.batches import Batch
from folds.training.guide import guided_posterior
from models import BLANK, CTCModel
from models.layers.lengths import Lengths


def ctc(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """CTC loss in nats per label: log-probabilities `(N, T', C)`, lengths `(N,)` on the CPU → a scalar.

    The batch's total loss divided by its number of labels, rather than a mean of per-utterance means: batches bounded
    by frames hold unequal numbers of utterances, and every label should weigh the same.
    """
    # Lengths on another device would be read back. PyTorch's CUDA kernel copies them to the device itself, and waits.
    loss = functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths, blank=BLANK, reduction="sum"
    )
    return loss / label_count(batch)


def soft_ctc(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Weighted CTC losses of the sequences in `batch.soft`, in nats per label of the transcripts: a scalar.

    That is -sum over h of weight(h) log P(h), where P is the model's. Sequences too long for their utterance's output
    count as 0: the teacher may have a smaller stride.
    """
    soft = batch.soft
    assert soft is not None
    # The outputs are computed once; only the log-probabilities are repeated. The rows need no synchronisation.
    repeated = log_probs.index_select(0, soft.rows.to(log_probs.device, non_blocking=True))
    losses = functional.ctc_loss(
        repeated.transpose(0, 1),
        soft.targets,
        lengths[soft.rows],
        soft.target_lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    return (losses * soft.weights).sum() / label_count(batch)


def taught_ctc(log_probs: Tensor, lengths: Tensor, batch: Batch, teacher_weight: float) -> tuple[Tensor, Tensor]:
    """(CTC loss mixed with that of the teacher's hypotheses by `teacher_weight`; CTC loss of the transcript alone)."""
    loss = ctc(log_probs, lengths, batch)
    if not teacher_weight or batch.soft is None:
        return loss, loss
    return (1 - teacher_weight) * loss + teacher_weight * soft_ctc(log_probs, lengths, batch), loss


def label_count(batch: Batch) -> int:
    """Number of labels of a batch, at least 1: a teacher's transcripts of unlabelled utterances may be empty.

    `target_lengths` are on the CPU, so nothing is read from the device.
    """
    return max(1, int(batch.target_lengths.sum()))


def objective(
    model: CTCModel,
    batch: Batch,
    *,
    intermediate: float,
    consistency: float = 0.0,
    guide_weight: float = 0.0,
    spikes: Tensor | None = None,
    teacher_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(the training loss, the CTC loss of the output alone), both in nats per label.

    With `consistency`, the batch holds two views of the same utterances, one after the other. `spikes` `(N, T')` are a
    guide's; the model's posterior at each, times `guide_weight` nats, is subtracted from the loss. `teacher_weight` is
    the share of `batch.soft` in every CTC loss.
    """
    outputs = model.grouped_outputs(batch.features, batch.lengths, batch.groups)
    total, loss = taught_ctc(outputs.log_probs, outputs.lengths, batch, teacher_weight)
    if intermediate:
        assert outputs.middle is not None and outputs.middle_lengths is not None  # see CTCModel.use_intermediate
        middle, _ = taught_ctc(outputs.middle, outputs.middle_lengths, batch, teacher_weight)
        total = (1 - intermediate) * total + intermediate * middle
    if consistency:
        total = total + consistency * disagreement(outputs.log_probs, outputs.lengths) / label_count(batch)
    if spikes is not None:
        total = total - guide_weight * guided_posterior(outputs.log_probs, spikes) / label_count(batch)
    auxiliary = model.auxiliary_loss(outputs, batch.targets, batch.target_lengths)
    if auxiliary is not None:
        weight, extra = auxiliary
        total = (1 - weight) * total + weight * extra
    return total, loss.detach()


class Objective(nn.Module):
    """`objective` as a module, so that DistributedDataParallel can average its gradients over processes."""

    def __init__(
        self,
        model: CTCModel,
        *,
        intermediate: float,
        consistency: float,
        guide_weight: float = 0.0,
        teacher_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.intermediate = intermediate
        self.consistency = consistency
        self.guide_weight = guide_weight
        self.teacher_weight = teacher_weight

    def forward(self, batch: Batch, spikes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Same as `objective`."""
        return objective(
            self.model,
            batch,
            intermediate=self.intermediate,
            consistency=self.consistency,
            guide_weight=self.guide_weight,
            spikes=spikes,
            teacher_weight=self.teacher_weight,
        )


def disagreement(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Sum over valid frames of KL(other view, detached || this view), for both views of `(2 N, T', C)`.

    `lengths` `(2 N,)` are on the CPU. The consistency loss of CR-CTC (arXiv 2410.05101).
    """
    other = log_probs.detach().roll(len(log_probs) // 2, dims=0)
    by_frame = functional.kl_div(log_probs, other, reduction="none", log_target=True).sum(dim=2)
    return (by_frame * Lengths(lengths).mask(log_probs.shape[1], log_probs.device)).sum()


def log_prior(labels: Tensor, classes: int, frames: int) -> Tensor:
    """Log-frequency of each class `(C,)` if each of `labels` fills one of `frames` output frames, the rest blank."""
    counts = torch.bincount(labels.long(), minlength=classes).double() + 1.0
    counts[BLANK] = max(float(frames - len(labels)), 1.0)
    return (counts / counts.sum()).log().float()
