"""Listen, Attend and Spell with a CTC head: a pyramidal listener, trained for CTC and for an attention speller at once.

After Chan et al. 2016 (arXiv 1508.01211) and, for the joint training and decoding, Watanabe et al. 2017 (Hybrid
CTC/Attention). Its CTC log-probabilities blend like any model's; the speller gives log P(string | utterance) of any
string, a second opinion on it, and `joint_search` decodes with both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.layers.attention_decoder import END, Speller
from models.network import BLANK, CTCNetwork, TrainingOutputs
from models.pblstm import PyramidConfig, pyramid_layers
from registry import InputError, register_model


@dataclass(frozen=True, kw_only=True)
class LASConfig(PyramidConfig):
    """A pyramidal listener with a CTC head, and an attention speller."""

    spelling: float = 0.3
    """Weight of the speller's loss; CTC gets the rest."""
    speller: int = 384
    """Units of each of the speller's two layers."""
    attention: int = 256
    """Width of the speller's attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.spelling < 1:
            raise InputError(f"--spelling {self.spelling}: expected a share between 0 and 1")


class LAS(CTCNetwork):
    """The listener is the CTC network; the speller reads its last layer."""

    def __init__(self, config: LASConfig) -> None:
        layers, tap = pyramid_layers(config)
        super().__init__(config, layers, tap)
        self.spelling = config.spelling
        self.speller = Speller(layers[-1].size, config.classes, config.speller, config.attention, config.dropout)

    def auxiliary_loss(self, heads: TrainingOutputs, targets: Tensor, target_lengths: Tensor) -> tuple[float, Tensor]:
        """The speller's weight and its cross-entropy, in nats a label."""
        memory = self.speller.memory(heads.states, heads.lengths)
        strings = targets.split(target_lengths.tolist())
        return self.spelling, -self.speller.log_likelihood(memory, strings).sum() / target_lengths.sum()

    @torch.no_grad()
    def spelled(self, features: Tensor, strings: list[list[int]]) -> Tensor:
        """The speller's log P(string | utterance) `(H,)` of one utterance's features `(T, F)`."""
        heads = self.training_outputs(features[None], torch.tensor([len(features)], device=features.device))
        memory = self.speller.memory(heads.states, heads.lengths)
        memory = type(memory)(*(_repeated(part, len(strings)) for part in memory))
        return self.speller.log_likelihood(memory, [torch.tensor(string, dtype=torch.long) for string in strings])


def _repeated(part: Tensor | tuple[Tensor, ...], count: int) -> Tensor | tuple[Tensor, ...]:
    if isinstance(part, tuple):
        return tuple(_repeated(each, count) for each in part)
    return part.expand(count, *part.shape[1:])


@torch.no_grad()
def joint_search(
    model: LAS, features: Tensor, beam: int = 10, ctc_weight: float = 0.5, length: int | None = None
) -> list[tuple[list[int], float]]:
    """Label-synchronous beam search for one utterance, features `(T, F)`: (tokens, score), best first.

    A string's score is ctc_weight log P_ctc + (1 - ctc_weight) log P_speller, exact for every string returned; on the
    way a prefix is scored by the CTC probability of all strings it begins (Watanabe et al. 2017). `length` bounds the
    strings, by default to the frames there are. Raises InputError for a beam below 1 or a weight outside 0 to 1.
    """
    if beam < 1 or not 0 <= ctc_weight <= 1:
        raise InputError(f"joint search: beam {beam}, CTC weight {ctc_weight}; expected at least 1, and 0 to 1")
    heads = model.training_outputs(features[None], torch.tensor([len(features)], device=features.device))
    memory = model.speller.memory(heads.states, heads.lengths)
    ctc = PrefixScores(heads.log_probs[0, : int(heads.lengths)].double().cpu().numpy())
    strings: list[list[int]] = [[]]
    spelled, states, cells = np.zeros(1), ctc.start(), None
    done: list[tuple[list[int], float]] = []
    for _ in range((length if length is not None else int(heads.lengths)) + 1):
        last = np.array([string[-1] if string else END for string in strings])
        repeated = type(memory)(*(_repeated(part, len(strings)) for part in memory))
        log_probs, cells = model.speller(repeated, torch.from_numpy(last).to(features.device)[:, None], cells)
        spells = spelled[:, None] + log_probs[:, 0].double().cpu().numpy()
        ended = _mixed(ctc_weight, ctc.whole(states), spells[:, END])
        done += zip(strings, ended.tolist(), strict=True)
        done = sorted(done, key=lambda each: -each[1])[:beam]
        prefixes, grown = ctc.extend(last, states)
        scores = _mixed(ctc_weight, prefixes, spells)
        scores[:, END] = -np.inf
        best = np.argsort(-scores, axis=None, kind="stable")[:beam]
        # Scores of prefixes bound those of the strings they begin, so what is below the worst kept may go.
        best = best[scores.flat[best] > (done[-1][1] if len(done) == beam else -np.inf)]
        if not len(best):
            break
        parents, tokens = np.unravel_index(best, scores.shape)
        strings = [[*strings[parent], token] for parent, token in zip(parents, tokens.tolist(), strict=True)]
        spelled, states = spells[parents, tokens], grown[parents, :, :, tokens]
        kept = torch.from_numpy(parents).to(features.device)
        cells = tuple(tuple(part.index_select(1, kept) for part in cell) for cell in cells)
    return done


def _mixed(weight: float, ctc: np.ndarray, spelled: np.ndarray) -> np.ndarray:
    # 0 times minus infinity is no number; a weight of 0 means not to ask.
    return (weight * ctc if weight else 0.0) + ((1 - weight) * spelled if weight < 1 else 0.0)


class PrefixScores:
    """CTC's log-probability of all strings that begin with a prefix (Graves 2008, chapter 7), for one utterance.

    `log_probs` `(T, C)`. The states of P prefixes `(P, T, 2)` are the log-mass of paths that make just the prefix and
    end at each frame, in its last token or in a blank.
    """

    def __init__(self, log_probs: np.ndarray) -> None:
        self.log_probs = log_probs

    def start(self) -> np.ndarray:
        """The empty prefix alone: `(1, T, 2)`."""
        state = np.full((1, len(self.log_probs), 2), -np.inf)
        state[0, :, 1] = np.cumsum(self.log_probs[:, BLANK])
        return state

    def whole(self, states: np.ndarray) -> np.ndarray:
        """log P(the prefix and nothing more) `(P,)`."""
        return np.logaddexp(states[:, -1, 0], states[:, -1, 1])

    def extend(self, last: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For every class: log P of all strings that begin with prefix and class `(P, C)`, and states `(P, T, 2, C)`.

        `last` `(P,)` is each prefix's last token, 0 for the empty one's.
        """
        (count, frames, _), classes = states.shape, self.log_probs.shape[1]
        # What flows into a new token at frame t: the prefix finished by t - 1, not in the same token without a blank.
        before = np.full((frames, count, classes), -np.inf)
        before[1:] = np.logaddexp(states[:, :-1, 0], states[:, :-1, 1]).T[:, :, None]
        before[0, last == END] = 0.0
        again = np.flatnonzero(last != END)
        before[1:, again, last[again]] = states[again, :-1, 1].T
        new = np.full((frames, 2, count, classes), -np.inf)
        token, blank = np.full((count, classes), -np.inf), np.full((count, classes), -np.inf)
        for t, row in enumerate(self.log_probs):
            token, blank = np.logaddexp(token, before[t]) + row, np.logaddexp(token, blank) + row[BLANK]
            new[t, 0], new[t, 1] = token, blank
        scores = np.logaddexp.reduce(before + self.log_probs[:, None], axis=0)
        return scores, new.transpose(2, 0, 1, 3)


@register_model(
    "las_small", tags=("attention", "recurrent", "pyramid", "cpu"), channels=128, bottom=96, hidden=160, dropout=0.1,
    speller=160, attention=128,
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
