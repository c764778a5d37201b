"""LAS: the speller's strings sum to one, whole strings score as token by token, joint search equals brute force."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from models.ctc import log_likelihood
from models.las import PrefixScores, joint_search
from registry import InputError, create_model

CLASSES = 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"channels": 8, "bottom": 6, "hidden": 8, "layers": 1, "speller": 7, "attention": 5}
    made = create_model("las_small", features=4, classes=CLASSES, **sizes)
    for parameter in made.parameters():  # far from uniform, so that a mistake shows
        parameter.data *= 2.5
    return made.eval()


@pytest.fixture(scope="module")
def features():
    return torch.randn(15, 4, generator=torch.Generator().manual_seed(1))


def strings(longest: int) -> list[list[int]]:
    tokens = range(1, CLASSES)
    return [list(s) for size in range(longest + 1) for s in itertools.product(tokens, repeat=size)]


def test_strings_sum_to_one_up_to_a_cut(model, features):
    """All strings shorter than the cut with their ends, and those of the cut's length without."""
    cut = 5
    whole = model.spelled(features, strings(cut - 1)).double().exp().sum()
    heads = model.training_outputs(features[None], torch.tensor([15]))
    memory = model.speller.memory(heads.states, heads.lengths)
    begun = 0.0
    for string in strings(cut):
        if len(string) == cut:
            log_probs, _ = model.speller(memory, torch.tensor([[0, *string[:-1]]]))
            begun += float(log_probs[0, range(cut), string].double().sum().exp().detach())
    assert float(whole) + begun == pytest.approx(1.0, abs=1e-5) and 0.01 < begun < 0.99


def test_a_batch_scores_as_one_utterance_and_one_token_at_a_time(model, features):
    other = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    batch = torch.zeros(2, 15, 4)
    batch[0], batch[1, :9] = features, other
    heads = model.training_outputs(batch, torch.tensor([15, 9]))
    memory = model.speller.memory(heads.states, heads.lengths)
    targets = [torch.tensor([1, 2, 2]), torch.tensor([2])]
    together = model.speller.log_likelihood(memory, targets).detach()
    alone = [model.spelled(x, [t.tolist()])[0] for x, t in zip((features, other), targets, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
    _, loss = model.auxiliary_loss(heads, torch.cat(targets), torch.tensor([3, 1]))
    assert float(loss.detach()) == pytest.approx(-float(together.sum()) / 4, rel=1e-5)
    heads = model.training_outputs(features[None], torch.tensor([15]))
    memory, cells, total = model.speller.memory(heads.states, heads.lengths), None, 0.0
    for token, after in ((0, 1), (1, 2), (2, 2), (2, 0)):
        log_probs, cells = model.speller(memory, torch.tensor([[token]]), cells)
        total += float(log_probs[0, 0, after].detach())
    assert total == pytest.approx(float(together[0]), abs=1e-5)


def test_a_prefix_has_the_mass_of_all_strings_it_begins():
    random = np.random.default_rng(0)
    log_probs = np.log(random.dirichlet(np.ones(CLASSES), size=4))
    everything = strings(4)
    mass = np.exp(log_likelihood(log_probs, everything))
    scores = PrefixScores(log_probs)
    states, expected = [], []
    for prefix in ([], [1], [2, 2], [1, 2]):
        state = scores.start()
        for size, token in enumerate(prefix):
            state = scores.extend(np.array([prefix[size - 1] if size else 0]), state)[1][:, :, :, token]
        assert np.exp(scores.whole(state)[0]) == pytest.approx(mass[everything.index(prefix)], abs=1e-12)
        (found,), _ = scores.extend(np.array([prefix[-1] if prefix else 0]), state)
        states.append(state)
        expected.append(found)
        for token in range(1, CLASSES):
            begun = [s[: len(prefix) + 1] == [*prefix, token] for s in everything]
            assert np.exp(found[token]) == pytest.approx(mass[begun].sum(), abs=1e-12)
    together, _ = scores.extend(np.array([0, 1, 2, 2]), np.concatenate(states))
    np.testing.assert_allclose(together, expected, rtol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_joint_search_equals_brute_force(model, features, weight):
    everything = strings(4)
    heads = model.training_outputs(features[None], torch.tensor([15]))
    ctc = log_likelihood(heads.log_probs[0].detach().numpy(), everything)
    spelled = model.spelled(features, everything).double().numpy()
    joint = (weight * ctc if weight else 0) + (1 - weight) * spelled
    best = np.argsort(-joint)[:5]
    found = joint_search(model, features, beam=40, ctc_weight=weight, length=4)[:5]
    assert [tokens for tokens, _ in found] == [everything[i] for i in best]
    assert [score for _, score in found] == pytest.approx(joint[best].tolist(), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("beam", "weight"), [(1, 0.3), (3, 0.0), (3, 0.5), (8, 0.5), (8, 1.0)])
def test_a_narrow_beam_finds_what_a_search_without_pruning_finds(model, beam, weight, seed):
    """Beam search by its definition: whole strings scored apart, every prefix by all strings it begins, none pruned."""
    everything = strings(4)
    features = 3 * torch.randn(15, 4, generator=torch.Generator().manual_seed(seed))
    model = copy.deepcopy(model)
    for bias in (model.output.bias, model.speller.output.bias):  # reluctant to end, so that strings are long
        bias.data[0] -= 3.0
    heads = model.training_outputs(features[None], torch.tensor([15]))
    likelihoods = log_likelihood(heads.log_probs[0].detach().numpy(), everything)
    ctc = dict(zip(map(tuple, everything), likelihoods, strict=True))
    ends = dict(zip(ctc, model.spelled(features, everything).double().tolist(), strict=True))
    memory = model.speller.memory(heads.states, heads.lengths)

    def score(ctc: float, spelled: float) -> float:
        return (weight * ctc if weight else 0.0) + (1 - weight) * spelled

    def begun(prefix: tuple[int, ...]) -> float:
        rows, _ = model.speller(memory, torch.tensor([[0, *prefix[:-1]]]))
        spelled = float(rows[0, range(len(prefix)), prefix].double().sum().detach())
        return score(np.logaddexp.reduce([p for s, p in ctc.items() if s[: len(prefix)] == prefix]), spelled)

    live, ever = [()], []
    for _ in range(5):
        ever += live
        grown = [(*prefix, token) for prefix in live for token in range(1, CLASSES) if len(prefix) < 4]
        live = sorted((p for p in grown if begun(p) > -np.inf), key=begun, reverse=True)[:beam]
    best = sorted(ever, key=lambda s: score(ctc[s], ends[s]), reverse=True)[:beam]
    found = joint_search(model, features, beam=beam, ctc_weight=weight, length=4)
    assert [tuple(tokens) for tokens, _ in found] == best
    assert [score for _, score in found] == pytest.approx([score(ctc[s], ends[s]) for s in best], abs=1e-4)


def test_a_search_that_cannot_be_is_refused(model, features):
    with pytest.raises(InputError, match="beam 0, CTC weight 0.5"):
        joint_search(model, features, beam=0)
