"""A layer for each speaker, fitted to hypotheses: its steps by hand, its independence of the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_data import labels_of, two_hypotheses
from torch.nn import functional

import models
from folds.training.speaker_adaptation import Unlabelled, adapt
from models import create_model
from models.ctc import log_likelihood
from registry import InputError, list_models

CPU = torch.device("cpu")


def unlabelled(split, indices=None) -> Unlabelled:
    chosen = np.arange(len(split)) if indices is None else np.array(indices)
    return Unlabelled.of(split, chosen, two_hypotheses(split.ids, labels_of(split)))


def network(seed: int = 0, model: str = "lstm_small", **config) -> models.CTCModel:
    torch.manual_seed(seed)
    return create_model(model, features=5, classes=41, **config)


def test_the_first_step_is_against_the_sign_of_the_gradient_of_the_expected_log_likelihood(dataset):
    """Adam's first step is the learning rate times the gradient's sign, whatever its size."""
    model, rows = network(), [0, 1, 2]
    assert len({dataset.train.groups[row] for row in rows}) == 1
    weight, bias = torch.zeros(5, 5, requires_grad=True), torch.zeros(5, requires_grad=True)
    loss = torch.zeros(())
    for row in rows:
        x = torch.tensor(dataset.train.features(row))[None]
        log_probs, lengths = model.eval()(x + x @ weight + bias, torch.tensor([x.shape[1]]))
        labels = torch.tensor(dataset.train.labels(row)).long()
        for posterior, target in ((0.75, labels), (0.25, labels[:-1])):
            count = torch.tensor([len(target)])
            of_one = functional.ctc_loss(log_probs.transpose(0, 1), target[None], lengths, count, reduction="sum")
            loss = loss + posterior * of_one
    loss.backward()
    facts = adapt(model, [unlabelled(dataset.train, rows)], passes=1, lr=0.01, device=CPU)
    assert facts.by == "speaker" and facts.groups == (dataset.train.groups[0],)
    torch.testing.assert_close(model.group_layer.weight[0], -0.01 * weight.grad.sign(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(model.group_layer.bias[0], -0.01 * bias.grad.sign(), rtol=1e-3, atol=1e-6)


def test_each_speaker_has_the_layer_that_it_has_alone(dataset):
    of_speaker = {speaker: [i for i, it in enumerate(dataset.train.groups) if it == speaker] for speaker in "035"}
    everyone = [index for indices in of_speaker.values() for index in indices]
    together, options = network(), {"passes": 3, "lr": 0.01, "device": CPU}
    weights = {name: value.clone() for name, value in together.state_dict().items()}
    facts = adapt(together, [unlabelled(dataset.train, everyone)], **options)
    assert facts.groups == ("0", "3", "5")
    for row, indices in enumerate(of_speaker.values()):
        alone = network()
        adapt(alone, [unlabelled(dataset.train, indices)], **options)
        torch.testing.assert_close(together.group_layer.weight[row], alone.group_layer.weight[0])
        assert alone.group_layer.weight.abs().max() > 0.01
    after = together.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert not any(module.training for module in together.modules())


def test_a_speaker_of_two_splits_learns_from_both(dataset):
    """As a day of Brain-to-Text does: one layer, fitted to the utterances of all splits."""
    dev = replace(dataset.dev, groups=("0",) * len(dataset.dev))
    both, first = network(), network()
    facts = adapt(both, [unlabelled(dataset.train, [0, 1]), unlabelled(dev)], passes=2, lr=0.01, device=CPU)
    adapt(first, [unlabelled(dataset.train, [0, 1])], passes=2, lr=0.01, device=CPU)
    assert facts.groups == ("0",) and not torch.allclose(both.group_layer.weight, first.group_layer.weight)


@pytest.mark.parametrize("model", list_models("*_small"))
def test_hypotheses_become_likelier_for_every_family(dataset, model):
    """By layers alone, with gradients through all layers and all recurrent networks, dropout notwithstanding."""
    adapted, speaker = network(model=model), [0, 1, 2, 3]

    def likelihood() -> float:
        total = 0.0
        for row in speaker:
            x = torch.tensor(dataset.train.features(row))[None]
            with torch.no_grad():
                log_probs, _ = adapted.eval()(x, torch.tensor([x.shape[1]]), [dataset.train.groups[row]])
            total += float(log_likelihood(log_probs[0].numpy(), [dataset.train.labels(row).tolist()])[0])
        return total

    before = likelihood()
    adapt(adapted, [unlabelled(dataset.train, speaker)], passes=10, lr=0.02, device=CPU)
    assert likelihood() > before + 0.1


def test_a_speaker_of_whom_nothing_is_known_keeps_a_finite_layer(dataset):
    empty = two_hypotheses(dataset.train.ids, [[]] * len(dataset.train))
    model = network()
    adapt(model, [Unlabelled.of(dataset.train, np.arange(3), empty)], passes=2, lr=0.01, device=CPU)
    assert model.group_layer.weight.isfinite().all()


def test_a_layer_that_is_not_finite_is_an_error(dataset, monkeypatch):
    def diverge(network, layer, *rest):
        torch.nn.init.constant_(layer.bias, float("nan"))

    monkeypatch.setattr("folds.training.speaker_adaptation._fit", diverge)
    with pytest.raises(InputError, match="a run: the layer of speaker 0 is NaN or infinite: try a smaller --lr"):
        adapt(network(), [unlabelled(dataset.train, [0])], passes=1, lr=1.0, device=CPU, description="a run")
