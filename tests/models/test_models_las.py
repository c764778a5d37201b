"""LAS: probabilities of hypotheses sum to one, whole ones score as token by token, joint search equals brute force."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from ensemble.decoding.joint_search import PrefixScorer, joint_search
from models import create_model
from models.ctc import log_likelihood
from registry import InputError

CLASSES = 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"channels": 8, "bottom": 6, "hidden": 8, "layers": 1, "speller": 7, "attention": 5}
    network = create_model("las_small", features=4, classes=CLASSES, **sizes)
    for parameter in network.parameters():  # far from uniform, so that a mistake shows
        parameter.data *= 2.5
    return network.eval()


@pytest.fixture(scope="module")
def features():
    return torch.randn(15, 4, generator=torch.Generator().manual_seed(1))


def hypotheses_up_to(longest: int) -> list[list[int]]:
    tokens = range(1, CLASSES)
    return [list(s) for size in range(longest + 1) for s in itertools.product(tokens, repeat=size)]


def test_hypotheses_sum_to_one_up_to_a_cut(model, features):
    """All hypotheses shorter than the cut with their ends, and those of the cut's length without."""
    cut = 5
    whole = model.attention_scores(features, hypotheses_up_to(cut - 1)).double().exp().sum()
    outputs = model.training_outputs(features[None], torch.tensor([15]))
    memory = model.memory(outputs)
    unfinished = 0.0
    for hypothesis in hypotheses_up_to(cut):
        if len(hypothesis) == cut:
            log_probs, _ = model.speller(memory, torch.tensor([[0, *hypothesis[:-1]]]))
            unfinished += float(log_probs[0, range(cut), hypothesis].double().sum().exp().detach())
    assert float(whole) + unfinished == pytest.approx(1.0, abs=1e-5) and 0.01 < unfinished < 0.99


def test_a_batch_scores_as_one_utterance_and_one_token_at_a_time(model, features):
    other = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    batch = torch.zeros(2, 15, 4)
    batch[0], batch[1, :9] = features, other
    outputs = model.training_outputs(batch, torch.tensor([15, 9]))
    memory = model.memory(outputs)
    targets = [torch.tensor([1, 2, 2]), torch.tensor([2])]
    together = model.speller.log_likelihood(memory, targets).detach()
    alone = [model.attention_scores(x, [t.tolist()])[0] for x, t in zip((features, other), targets, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
    weight, loss = model.auxiliary_loss(outputs, torch.cat(targets), torch.tensor([3, 1]))
    assert weight == 0.3
    assert float(loss.detach()) == pytest.approx(-float(together.sum()) / 4, rel=1e-5)
    outputs = model.training_outputs(features[None], torch.tensor([15]))
    memory, cells, total = model.memory(outputs), None, 0.0
    for token, after in ((0, 1), (1, 2), (2, 2), (2, 0)):
        log_probs, cells = model.speller(memory, torch.tensor([[token]]), cells)
        total += float(log_probs[0, 0, after].detach())
    assert total == pytest.approx(float(together[0]), abs=1e-5)


def test_a_prefix_has_the_probability_of_all_sequences_that_begin_with_it():
    random = np.random.default_rng(0)
    log_probs = np.log(random.dirichlet(np.ones(CLASSES), size=4))
    everything = hypotheses_up_to(4)
    probabilities = np.exp(log_likelihood(log_probs, everything))
    scorer = PrefixScorer(log_probs)
    forwards, expected = [], []
    for prefix in ([], [1], [2, 2], [1, 2]):
        forward = scorer.start()
        for size, token in enumerate(prefix):
            forward = scorer.extend(np.array([prefix[size - 1] if size else 0]), forward)[1][:, :, :, token]
        assert np.exp(scorer.finish(forward)[0]) == pytest.approx(probabilities[everything.index(prefix)], abs=1e-12)
        (extended,), _ = scorer.extend(np.array([prefix[-1] if prefix else 0]), forward)
        forwards.append(forward)
        expected.append(extended)
        for token in range(1, CLASSES):
            begins = [s[: len(prefix) + 1] == [*prefix, token] for s in everything]
            assert np.exp(extended[token]) == pytest.approx(probabilities[begins].sum(), abs=1e-12)
    together, _ = scorer.extend(np.array([0, 1, 2, 2]), np.concatenate(forwards))
    np.testing.assert_allclose(together, expected, rtol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_joint_search_equals_brute_force(model, features, weight):
    everything = hypotheses_up_to(4)
    outputs = model.training_outputs(features[None], torch.tensor([15]))
    ctc = log_likelihood(outputs.log_probs[0].detach().numpy(), everything)
    attention = model.attention_scores(features, everything).double().numpy()
    joint = (weight * ctc if weight else 0) + (1 - weight) * attention
    best = np.argsort(-joint)[:5]
    found = joint_search(model, features, beam=40, ctc_weight=weight, max_tokens=4)[:5]
    assert [list(hypothesis.tokens) for hypothesis in found] == [everything[i] for i in best]
    assert [hypothesis.score for hypothesis in found] == pytest.approx(joint[best].tolist(), abs=1e-4)
    assert [hypothesis.ctc for hypothesis in found] == pytest.approx(ctc[best].tolist(), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("beam", "weight"), [(1, 0.3), (3, 0.0), (3, 0.5), (8, 0.5), (8, 1.0)])
def test_a_narrow_beam_finds_what_a_search_without_pruning_finds(model, beam, weight, seed):
    """Beam search by its definition: hypotheses scored whole, prefixes by all sequences that begin so, none pruned."""
    everything = hypotheses_up_to(4)
    features = 3 * torch.randn(15, 4, generator=torch.Generator().manual_seed(seed))
    model = copy.deepcopy(model)
    for bias in (model.output.bias, model.speller.output.bias):  # ends are unlikely, so that hypotheses are long
        bias.data[0] -= 3.0
    outputs = model.training_outputs(features[None], torch.tensor([15]))
    likelihoods = log_likelihood(outputs.log_probs[0].detach().numpy(), everything)
    ctc = dict(zip(map(tuple, everything), likelihoods, strict=True))
    ends = dict(zip(ctc, model.attention_scores(features, everything).double().tolist(), strict=True))
    memory = model.memory(outputs)

    def score(ctc: float, attention: float) -> float:
        return (weight * ctc if weight else 0.0) + (1 - weight) * attention

    def prefix_score(prefix: tuple[int, ...]) -> float:
        rows, _ = model.speller(memory, torch.tensor([[0, *prefix[:-1]]]))
        attention = float(rows[0, range(len(prefix)), prefix].double().sum().detach())
        return score(np.logaddexp.reduce([p for s, p in ctc.items() if s[: len(prefix)] == prefix]), attention)

    kept, candidates = [()], []
    for _ in range(5):
        candidates += kept
        extended = [(*prefix, token) for prefix in kept for token in range(1, CLASSES) if len(prefix) < 4]
        kept = sorted((p for p in extended if prefix_score(p) > -np.inf), key=prefix_score, reverse=True)[:beam]
    best = sorted(candidates, key=lambda s: score(ctc[s], ends[s]), reverse=True)[:beam]
    found = joint_search(model, features, beam=beam, ctc_weight=weight, max_tokens=4)
    assert [hypothesis.tokens for hypothesis in found] == best
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score(ctc[s], ends[s]) for s in best], abs=1e-4)


def test_by_default_a_hypothesis_has_at_most_a_token_per_output_frame(model, features):
    """The attention decoder alone, without pruning, so that all hypotheses up to that length are returned."""
    assert int(model.training_outputs(features[None], torch.tensor([15])).lengths) == 4
    everything = hypotheses_up_to(4)
    found = joint_search(model, features, beam=50, ctc_weight=0.0)
    assert sorted(map(list, (hypothesis.tokens for hypothesis in found))) == sorted(everything)
    scores = model.attention_scores(features, [list(hypothesis.tokens) for hypothesis in found]).tolist()
    assert [hypothesis.score for hypothesis in found] == pytest.approx(scores, abs=1e-4)
    assert [hypothesis.tokens for hypothesis in joint_search(model, features, max_tokens=0)] == [()]


def test_the_utterance_s_group_is_that_of_the_group_layer(model, features, monkeypatch):
    groups: list[tuple[str, ...]] = []
    outputs = type(model).grouped_outputs

    def grouped_outputs(network, batch, lengths, names):
        groups.append(tuple(names))
        return outputs(network, batch, lengths, names)

    monkeypatch.setattr(type(model), "grouped_outputs", grouped_outputs)
    joint_search(model, features, max_tokens=0, groups=("speaker 4",))
    joint_search(model, features, max_tokens=0)
    assert groups == [("speaker 4",), ()]


def test_a_beam_below_one_is_refused(model, features):
    with pytest.raises(InputError, match="beam is 0; expected 1 or more"):
        joint_search(model, features, beam=0)


def test_a_ctc_weight_outside_0_to_1_is_refused(model, features):
    with pytest.raises(InputError, match="CTC weight is 1.5; expected 0 to 1"):
        joint_search(model, features, ctc_weight=1.5)
