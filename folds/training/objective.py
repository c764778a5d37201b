"""The training objective: CTC on the output, and as options CTC on a middle layer, the agreement of two views, a guide.

Intermediate CTC: Lee & Watanabe 2021 (arXiv 2102.03216). Agreement of two views, CR-CTC: Yao et al. 2024 (arXiv
2410.05101). Guided CTC: Kurata & Audhkhasi 2019 (arXiv 1904.08311).
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

    The batch's sum divided by its labels, rather than a mean of utterances' means: batches bounded by frames hold
    unequal numbers of utterances, and every label should weigh the same.
    """
    # From another device, lengths would be read back. PyTorch's CUDA kernel copies them there itself, and waits for it.
    loss = functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths, blank=BLANK, reduction="sum"
    )
    return loss / label_count(batch)


def label_count(batch: Batch) -> int:
    """Number of labels of a batch; `target_lengths` are on the CPU, so nothing is read from the device."""
    return int(batch.target_lengths.sum())


def objective(
    model: CTCModel,
    batch: Batch,
    *,
    intermediate: float,
    consistency: float = 0.0,
    guide_weight: float = 0.0,
    spikes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(the training loss, the CTC loss of the output alone), both in nats per label.

    With `consistency`, the batch is two views of the same utterances, one after the other. `spikes` `(N, T')` are a
    guide's; the model's posterior of each counts as `guide_weight` nats less.
    """
    outputs = model.training_outputs(batch.features, batch.lengths)
    loss = total = ctc(outputs.log_probs, outputs.lengths, batch)
    if intermediate:
        assert outputs.middle is not None and outputs.middle_lengths is not None  # see CTCModel.use_intermediate
        total = (1 - intermediate) * loss + intermediate * ctc(outputs.middle, outputs.middle_lengths, batch)
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
        self, model: CTCModel, *, intermediate: float, consistency: float, guide_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.model = model
        self.intermediate = intermediate
        self.consistency = consistency
        self.guide_weight = guide_weight

    def forward(self, batch: Batch, spikes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `objective`."""
        return objective(
            self.model,
            batch,
            intermediate=self.intermediate,
            consistency=self.consistency,
            guide_weight=self.guide_weight,
            spikes=spikes,
        )


def disagreement(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Sum over valid frames of KL(the other view, held fixed || this view), for both views of `(2 N, T', C)`.

    `lengths` `(2 N,)` are on the CPU. The consistency loss of CR-CTC (arXiv 2410.05101).
    """
    other = log_probs.detach().roll(len(log_probs) // 2, dims=0)
    by_frame = functional.kl_div(log_probs, other, reduction="none", log_target=True).sum(dim=2)
    return (by_frame * Lengths(lengths).mask(log_probs.shape[1], log_probs.device)).sum()


def log_prior(labels: Tensor, classes: int, frames: int) -> Tensor:
    """Log-frequency of each class `(C,)` when `labels` are spread over `frames` output frames and the rest is blank."""
    counts = torch.bincount(labels.long(), minlength=classes).double() + 1.0
    counts[BLANK] = max(float(frames - len(labels)), 1.0)
    return (counts / counts.sum()).log().float()
