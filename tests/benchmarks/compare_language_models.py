"""A neural phone language model beside the n-gram: perplexity, and out-of-fold distance of rescored pools.

    python tests/benchmarks/compare_language_models.py --data data --runs runs

For each outer fold (of speakers), an LSTM is trained on the transcripts of all other speakers, as the n-gram is. The
pools of the finished members are rescored by the mean of the members' log-likelihoods and one of the two language
models, or both. Weights and length bonus are fitted on the other outer folds, so every distance is nested. Pools are
proposed with the n-gram, so a hypothesis that only the neural model would have found is missing: the gain of a second
pass is measured.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import InputOptions, open_inputs
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import best_per_utterance
from ensemble.members.member import group_by_member
from ensemble.members.stores import StoresOptions
from folds.competition.bootstrap import paired_bootstrap
from folds.data.dataset import Dataset
from registry import command
from registry.bounds import MAX_SEED, MAX_UTTERANCES, number
from registry.command_line import parse_options

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2)
BONUSES = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
END = 0  # also the input before the first label, as in the n-gram model


@dataclass(frozen=True)
class Options(StoresOptions):
    """Compare language models on the pools of finished members."""

    epochs: int = number(10, at_least=1, at_most=10_000)
    """Epochs of the LSTM."""
    hidden: int = number(256, at_least=1, at_most=16_384)
    """Size of its two layers."""
    dropout: float = number(0.3, at_least=0, below=1)
    """Dropout before, between and after them."""
    limit: int = number(1000, at_least=2, at_most=MAX_UTTERANCES)
    """Utterances to rescore."""
    seed: int = number(0, at_least=0, at_most=MAX_SEED)
    """Seed of the LSTM, and of which utterances are rescored."""


class LSTMLanguageModel(nn.Module):
    """A two-layer LSTM over phonemes, with one matrix for embeddings and output."""

    def __init__(self, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, hidden)
        self.lstm = nn.LSTM(hidden, hidden, 2, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(classes))

    def log_probs(self, tokens: Sequence[np.ndarray]) -> Tensor:
        """log P(tokens, end) of each sequence, natural logarithm, (B,)."""
        lengths = torch.tensor([len(sequence) + 1 for sequence in tokens])
        padded = torch.zeros(len(tokens), int(lengths.max()) + 1, dtype=torch.int64)
        for row, sequence in enumerate(tokens):
            padded[row, 1 : len(sequence) + 1] = torch.from_numpy(sequence.astype(np.int64))
        inputs, targets = padded[:, :-1], padded[:, 1:]
        outputs, _ = self.lstm(self.dropout(self.embedding(inputs)))
        logits = functional.linear(self.dropout(outputs), self.embedding.weight, self.bias)
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return -(losses * (torch.arange(targets.shape[1]) < lengths[:, None])).sum(dim=1)


def train(transcripts: Sequence[np.ndarray], classes: int, options: Options) -> LSTMLanguageModel:
    """A model of the transcripts; AdamW with a cosine schedule."""
    torch.manual_seed(options.seed)
    generator = np.random.default_rng(options.seed)
    model = LSTMLanguageModel(classes, options.hidden, options.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    batches = -(-len(transcripts) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * batches)
    for _ in range(options.epochs):
        for rows in np.array_split(generator.permutation(len(transcripts)), batches):
            chosen = [transcripts[row] for row in rows]
            loss = -model.log_probs(chosen).sum() / sum(len(sequence) + 1 for sequence in chosen)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def scores(model: LSTMLanguageModel, tokens: Sequence[np.ndarray], batch: int = 256) -> np.ndarray:
    """log P of each sequence, (H,)."""
    order = np.argsort([len(sequence) for sequence in tokens], kind="stable")
    result = np.empty(len(tokens))
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        result[rows] = model.log_probs([tokens[row] for row in rows]).numpy()
    return result


def perplexity(log_probs: np.ndarray, tokens: Sequence[np.ndarray]) -> float:
    """Per symbol; the end of an utterance counts as one."""
    return float(np.exp(-log_probs.sum() / sum(len(sequence) + 1 for sequence in tokens)))


def nested_distances(
    pool: Pool, acoustic: np.ndarray, language_models: Sequence[np.ndarray], outer_folds: np.ndarray
) -> np.ndarray:
    """Distance of each utterance's best hypothesis, with weights and bonus fitted on the other outer folds, (N,)."""
    assert pool.distance is not None
    trials = list(itertools.product(*[WEIGHTS] * len(language_models), BONUSES))
    chosen = np.empty((len(trials), len(pool)))
    for trial, (*weights, bonus) in enumerate(trials):
        added = sum(weight * scores for weight, scores in zip(weights, language_models, strict=True))
        total = acoustic + added + bonus * pool.lengths
        chosen[trial] = pool.distance[best_per_utterance(total, pool.offsets)]
    distances = np.empty(len(pool))
    for fold in np.unique(outer_folds):
        inside = outer_folds == fold
        distances[inside] = chosen[chosen[:, ~inside].mean(axis=1).argmin(), inside]
    return distances


def neural_scores(inputs: BlendInputs, pool: Pool, dataset: Dataset, options: Options) -> np.ndarray:
    """Scores of the pool's hypotheses (H,), each by the model without its outer fold's speakers.

    Prints the perplexities on these speakers' transcripts.
    """
    train_split = dataset.train
    row_of = {utterance: row for row, utterance in enumerate(train_split.ids)}
    speakers = train_split.groups
    speaker_of = np.array([speakers[row_of[utterance]] for utterance in inputs.split.ids])
    rows = np.repeat(np.arange(len(pool)), np.diff(pool.offsets))
    result = np.empty(len(pool.tokens))
    for fold in np.unique(inputs.outer_folds):
        held_out = set(speaker_of[inputs.outer_folds == fold].tolist())
        inside = [np.asarray(train_split.labels(row)) for row, name in enumerate(speakers) if name not in held_out]
        outside = [np.asarray(train_split.labels(row)) for row, name in enumerate(speakers) if name in held_out]
        start = time.process_time()
        model = train(inside, dataset.alphabet.classes, options)
        ngram = inputs.split.language_models[fold].scores([sequence.tolist() for sequence in outside])
        neural = scores(model, outside)
        minutes = (time.process_time() - start) / 60
        print(
            f"outer fold {fold}, {len(inside)} transcripts: perplexity of the n-gram {perplexity(ngram, outside):.3f}, "
            f"of the LSTM {perplexity(neural, outside):.3f}; {minutes:.1f} CPU-minutes",
            flush=True,
        )
        hypotheses = np.flatnonzero(inputs.outer_folds[rows] == fold)
        result[hypotheses] = scores(model, [pool.tokens[index] for index in hypotheses])
    return result


def main() -> None:
    """Print perplexities and nested distances."""
    options = parse_options(Options, "compare_language_models.py")
    options.use_threads()
    dataset = options.open_dataset()
    members = group_by_member(options.find_fold_models())
    inputs = open_inputs(members, dataset, InputOptions(fit_limit=options.limit, seed=options.seed)).oof
    pool = inputs.pool()
    acoustic = pool.ctc.mean(axis=1)
    neural = neural_scores(inputs, pool, dataset, options)
    systems = {"no language model": [], "n-gram": [pool.lm], "LSTM": [neural], "both": [pool.lm, neural]}
    distances = {name: nested_distances(pool, acoustic, terms, inputs.outer_folds) for name, terms in systems.items()}
    speaker_of = dict(zip(dataset.train.ids, dataset.train.groups, strict=True))
    speakers = [speaker_of[utterance] for utterance in inputs.split.ids]
    print(f"{len(pool)} utterances, {len(members)} members, nested distance, and minus that with the n-gram:")
    for name, of_system in distances.items():
        print(f"  {name}: {of_system.mean():.3f}, {paired_bootstrap(of_system, distances['n-gram'], speakers)}")


if __name__ == "__main__":
    command(main)
