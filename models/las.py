"""Listen, Attend and Spell: a pyramidal listener, trained jointly with a CTC output and an attention speller.

Follows Chan et al. 2016 (arXiv 1508.01211) and, for joint training with CTC, Watanabe et al. 2017 (Hybrid
CTC/Attention). The CTC log-probabilities are blended like any other model's. The speller computes
log P(hypothesis | utterance), which rescoring uses as a second score; `ensemble.joint` decodes with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers.attention_decoder import AttentionMemory, Speller
from models.network import CTCNetwork, TrainingOutputs
from models.pblstm import PyramidConfig, pyramid_layers
from registry import register_model
from registry.bounds import number


@dataclass(frozen=True, kw_only=True)
class LASConfig(PyramidConfig):
    """A pyramidal listener with a CTC output, and an attention speller."""

    spelling: float = number(0.3, above=0, below=1, search=(0.1, 0.6))
    """Weight of the speller's cross-entropy; the weight of the CTC loss is 1 minus this."""
    speller: int = number(384, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Hidden units in each of the speller's two LSTM layers."""
    attention: int = number(256, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Dimension of attention queries, keys and values."""


class LAS(CTCNetwork):
    """The listener is the CTC network; the speller reads its last layer."""

    def __init__(self, config: LASConfig) -> None:
        layers, intermediate_after = pyramid_layers(config)
        super().__init__(config, layers, intermediate_after)
        self.spelling = config.spelling
        self.speller = Speller(
            encoder_dim=layers[-1].out_features,
            classes=config.classes,
            hidden=config.speller,
            attention=config.attention,
            dropout=config.dropout,
        )

    @property
    def has_attention_scores(self) -> bool:
        """Whether the model has an attention decoder and therefore `attention_scores`."""
        return True

    def memory(self, outputs: TrainingOutputs) -> AttentionMemory:
        """The keys and values `(N, T', A)` that the speller attends to, and their mask `(N, T')`."""
        assert outputs.states is not None  # a CTCNetwork always returns them
        return self.speller.memory(outputs.states, outputs.lengths)

    def auxiliary_loss(self, outputs: TrainingOutputs, targets: Tensor, target_lengths: Tensor) -> tuple[float, Tensor]:
        """The weight of the speller's loss, and that loss: cross-entropy in nats per label, a scalar.

        `targets` `(sum of L,)` are the concatenated transcripts, of lengths `target_lengths` `(N,)` on the CPU.
        """
        transcripts = targets.split(target_lengths.tolist())
        log_likelihoods = self.speller.log_likelihood(self.memory(outputs), transcripts)
        return self.spelling, -log_likelihoods.sum() / max(1, int(target_lengths.sum()))

    @torch.no_grad()
    def attention_scores(self, features: Tensor, hypotheses: list[list[int]], groups: Sequence[str] = ()) -> Tensor:
        """The speller's log P(hypothesis | utterance) `(H,)` of H hypotheses, for one utterance's features `(T, F)`."""
        outputs = self.grouped_outputs(features[None], torch.tensor([len(features)]), groups)
        memory = self.memory(outputs).expand(len(hypotheses))
        return self.speller.log_likelihood(memory, [torch.tensor(tokens, dtype=torch.long) for tokens in hypotheses])


@register_model(
    "las_small",
    tags=("attention", "recurrent", "pyramid", "cpu"),
    channels=128,
    bottom=96,
    hidden=160,
    dropout=0.1,
    speller=160,
    attention=128,
)
def las_small(config: LASConfig) -> nn.Module:
    """The listener of pblstm_small with an attention speller of 160 units: trains on two CPU cores."""
    return LAS(config)


@register_model("las", tags=("attention", "recurrent", "pyramid"), dropout=0.3)
def las(config: LASConfig) -> nn.Module:
    """Stride-2 convolution, BiLSTM of 256, one pyramid reduction, 2 BiLSTM of 384, attention speller of 384 units."""
    return LAS(config)


@register_model(
    "las_large", tags=("attention", "recurrent", "pyramid"), bottom=288, hidden=416, layers=3, dropout=0.35, speller=416
)
def las_large(config: LASConfig) -> nn.Module:
    """Stride-2 convolution, BiLSTM of 288, one pyramid reduction, 3 BiLSTM of 416, attention speller of 416 units."""
    return LAS(config)
