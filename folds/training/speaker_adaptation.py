"""Speaker adaptation: an affine layer for each speaker in front of a trained network, fitted to a blend's hypotheses.

The network is frozen, and each speaker's layer, initialised to the identity, learns to fit that speaker's features to
it. Hybrid recognisers call this a linear input network (Neto et al. 1995), Gaussian mixture models CMLLR (Gales 1998,
"Maximum likelihood linear transformations for HMM-based speech recognition"). No transcripts are needed: a blend's
hypotheses, weighted by their posteriors, take their place. Cross-system adaptation gains from hypotheses that also come
from other networks, which make other errors. F (F + 1) parameters per speaker are too few to memorise the hypotheses;
all of a network's parameters would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from folds.data.batches import Batch, collate, plan
from folds.data.dataset import Split
from folds.store.nbest_file import NBestHypotheses
from folds.training.blend_hypotheses import labelled, soft_targets
from folds.training.objective import soft_ctc
from models import CTCModel, GroupFacts, GroupLayer
from registry import InputError
from registry.console import track

BATCH_FRAMES = 6000
"""Frames per step, on every device: a speaker has few utterances, and a layer needs enough steps to learn."""


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Utterances to adapt to: those of `split` at `indices`, and a blend's hypotheses for them."""

    split: Split
    """Its features are as the network reads them; its transcripts are the most probable hypotheses."""
    indices: np.ndarray
    hypotheses: NBestHypotheses

    @staticmethod
    def of(split: Split, indices: np.ndarray, hypotheses: NBestHypotheses) -> Unlabelled:
        """The utterances of `split` at `indices`, all of which have `hypotheses`."""
        return Unlabelled(labelled(split, hypotheses), indices, hypotheses)

    def check(self, option: str, title: str) -> None:
        """Raise InputError, naming `option` and the run `title`, if utterances have no hypotheses."""
        known = set(self.hypotheses.ids)
        missing = [self.split.ids[index] for index in self.indices.tolist() if self.split.ids[index] not in known]
        if missing:
            raise InputError(
                f"{option}: has no hypotheses for {len(missing)} of the {len(self.indices)} {self.split.name} "
                f"utterances that {title} predicts, the first is {missing[0]}: blend members with its folds"
            )

    def of_group(self, group: str) -> Iterator[Batch]:
        """Batches of one speaker's utterances and their hypotheses, from the longest utterance to the shortest."""
        row_of = {utterance: row for row, utterance in enumerate(self.hypotheses.ids)}
        flat = self.hypotheses.tokens, self.hypotheses.posteriors, self.hypotheses.offsets
        chosen = np.array([index for index in self.indices.tolist() if self.split.groups[index] == group], np.int64)
        for positions in plan(self.split.lengths[chosen], frames=BATCH_FRAMES):
            batch = collate(self.split, chosen[positions])
            rows = [row_of[self.split.ids[index]] for index in batch.indices]
            yield replace(batch, soft=soft_targets(*flat, rows))


def adapt(
    network: CTCModel,
    parts: Sequence[Unlabelled],
    *,
    passes: int,
    lr: float,
    device: torch.device,
    description: str = "",
) -> GroupFacts:
    """Put a layer for each speaker of `parts` in front of `network`, and return the description of the layers.

    Each layer is trained for `passes` over its speaker's utterances with Adam at the learning rate `lr`. The network
    ends in evaluation mode on `device`; its own weights are unchanged and require no gradients. With a description, a
    progress bar is shown. Raises InputError for a layer with non-finite weights.
    """
    groups = sorted({part.split.groups[index] for part in parts for index in part.indices.tolist()})
    facts = GroupFacts(parts[0].split.grouped_by, tuple(groups))
    features = parts[0].split.frames.values.shape[1]
    adapted = GroupLayer(features, facts)
    network.to(device).eval().requires_grad_(False)
    _let_recurrent_layers_learn(network)
    for row, group in enumerate(track(groups, description) if description else groups):
        layer = GroupLayer(features, GroupFacts(facts.by, (group,))).to(device)
        network.group_layer = layer
        batches = [batch for part in parts for batch in part.of_group(group)]
        _fit(network, layer, batches, passes, lr, device)
        if not all(bool(values.isfinite().all()) for values in layer.parameters()):
            raise InputError(f"{description}: the layer of {facts.by} {group} is NaN or infinite: try a smaller --lr")
        with torch.no_grad():
            adapted.weight[row], adapted.bias[row] = layer.weight[0].cpu(), layer.bias[0].cpu()
    network.group_layer = adapted.to(device)
    network.eval()
    return facts


def _fit(
    network: CTCModel, layer: GroupLayer, batches: Sequence[Batch], passes: int, lr: float, device: torch.device
) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    for _ in range(passes):
        for batch in batches:
            on_device = batch.to(device)
            log_probs, lengths = network(on_device.features, on_device.lengths, on_device.groups)
            optimizer.zero_grad()
            soft_ctc(log_probs, lengths, on_device).backward()
            optimizer.step()


def _let_recurrent_layers_learn(network: nn.Module) -> None:
    """Set training mode without dropout: cuDNN computes gradients through recurrent layers only in training mode."""
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
            module.train()
