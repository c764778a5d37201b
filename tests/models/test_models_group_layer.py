"""The layer of each group in front of a model: the identity at first, the mean for unknown groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_models_contract import CLASSES, FEATURES, batch, build
from torch.nn import functional

import models
from models import GroupFacts, GroupLayer, build_network, write_weights
from registry import InputError, list_models

DAYS = ("monday", "tuesday", "friday")


def layer(softsign: bool = False, learned: bool = True) -> GroupLayer:
    made = GroupLayer(4, GroupFacts("day", DAYS, softsign))
    if learned:
        torch.manual_seed(3)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter)
    return made


@pytest.mark.parametrize("name", list_models())
def test_every_model_takes_a_layer_and_starts_as_without_it(name):
    model = build(name).eval()
    x, ends = batch(30, 21)
    expected, lengths = model(x, ends)
    before = sum(parameter.numel() for parameter in model.parameters())
    model.group_layer = GroupLayer(FEATURES, GroupFacts("day", DAYS))
    for groups in (("friday", "monday"), ("sunday", "monday"), ()):
        found, found_lengths = model(x, ends, groups)
        assert torch.equal(found, expected) and torch.equal(found_lengths, lengths)
    after = sum(parameter.numel() for parameter in model.parameters())
    assert after - before == len(DAYS) * FEATURES * (FEATURES + 1)
    assert {"group_layer.weight", "group_layer.bias"} <= set(model.state_dict())


@pytest.mark.parametrize("softsign", [False, True])
def test_each_utterance_goes_through_the_layer_of_its_group(softsign):
    made, x = layer(softsign), torch.randn(3, 5, 4)
    y = made(x, ("friday", "monday", "friday"))
    for row, group in enumerate((2, 0, 2)):
        expected = x[row] @ (torch.eye(4) + made.weight[group]) + made.bias[group]
        expected = functional.softsign(expected) if softsign else expected
        torch.testing.assert_close(y[row], expected)


def test_an_unknown_group_has_the_mean_layer():
    made, x = layer(), torch.randn(2, 5, 4)
    mean = torch.stack([torch.eye(4) + weight for weight in made.weight]).mean(dim=0)
    for groups in (("sunday", "monday"), ()):
        torch.testing.assert_close(made(x, groups)[0], x[0] @ mean + made.bias.mean(dim=0))
    torch.testing.assert_close(made(x, ("sunday", "monday"))[1], made(x[1:], ("monday",))[0])


def test_the_mean_layer_of_a_linear_layer_is_the_mean_of_the_groups_outputs():
    made, x = layer(), torch.randn(1, 5, 4)
    by_group = torch.stack([made(x, (day,)) for day in DAYS])
    torch.testing.assert_close(made(x, ("sunday",)), by_group.mean(dim=0))


def test_gradients_reach_the_groups_of_the_batch_alone():
    made = layer(learned=False)
    made(torch.randn(2, 5, 4), ("tuesday", "tuesday")).square().sum().backward()
    for parameter in (made.weight, made.bias):
        assert parameter.grad is not None
        assert [bool(part.abs().sum() > 0) for part in parameter.grad] == [False, True, False]


def test_padding_and_neighbours_in_the_batch_do_not_matter():
    model = build("gru_stream_small").eval()
    model.group_layer = GroupLayer(FEATURES, GroupFacts("day", DAYS))
    torch.nn.init.normal_(model.group_layer.weight, std=0.2)
    torch.nn.init.normal_(model.group_layer.bias)
    x, ends = batch(40, 23)
    groups = ("friday", "sunday")
    together, lengths = model(x, ends, groups)
    for row, end in enumerate(ends.tolist()):
        alone, _ = model(x[row : row + 1, :end], ends[row : row + 1], groups[row : row + 1])
        torch.testing.assert_close(together[row, : lengths[row]], alone[0], atol=2e-5, rtol=1e-4)


def test_attention_scores_are_those_behind_the_layer_of_the_group():
    model, (x, _) = build("las_small").eval(), batch(40)
    model.group_layer = made = GroupLayer(FEATURES, GroupFacts("day", DAYS))
    torch.nn.init.normal_(made.weight)
    hypotheses = [[1, 2], [3], []]
    found = [model.attention_scores(x[0], hypotheses, groups) for groups in (("friday",), ())]
    model.group_layer = None
    expected = [model.attention_scores(made(x, groups)[0].detach(), hypotheses) for groups in (("friday",), ())]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(*found, atol=1e-3)


def test_wrong_groups_are_refused():
    with pytest.raises(ValueError, match="1 groups for 2 utterances"):
        layer()(torch.randn(2, 5, 4), ("monday",))
    for groups in ((), ("monday", "monday")):
        with pytest.raises(ValueError, match="expected one or more, all distinct"):
            GroupFacts("day", groups)


def test_a_weights_file_restores_the_layer(tmp_path):
    config = {"features": FEATURES, "classes": CLASSES, "hidden": 8, "layers": 1}
    facts = GroupFacts("day", DAYS, softsign=True)
    network = build_network("gru_stream_small", config, facts).eval()
    assert network.group_layer is not None
    torch.nn.init.normal_(network.group_layer.weight)
    labels = ["", *(chr(0x4E00 + index) for index in range(CLASSES - 1))]
    description = {"model": "gru_stream_small", "config": config, "phonemes": labels, "characters": labels}
    described = {"by": "day", "groups": list(DAYS), "softsign": True}
    (tmp_path / models.WEIGHTS_FILE).parent.mkdir()
    path = tmp_path / models.WEIGHTS_FILE
    write_weights(path, network, description | {"normalization": "utterance", "group_layer": described})
    trained = models.load(tmp_path)
    assert trained.description.group_layer == facts
    features = [np.random.default_rng(row).normal(size=(30 + row, FEATURES)) for row in range(3)]
    known, unknown = trained.predict(features, ["friday", "monday", "friday"]), trained.predict(features)
    assert not np.allclose(known[0], unknown[0], atol=1e-3)
    np.testing.assert_allclose(trained.predict(features[1], ["monday"]), known[1], atol=1e-5)
    np.testing.assert_allclose(trained.predict(features[1], ["sunday"]), unknown[1], atol=1e-5)
    with pytest.raises(InputError, match="2 groups for 3 utterances"):
        trained.predict(features, ["friday", "monday"])
    with pytest.raises(ValueError, match="expected one or more, all distinct"):
        write_weights(path, network, description | {"normalization": "", "group_layer": {"by": "day", "groups": []}})
