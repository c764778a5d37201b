"""Layers against their definitions: packed recurrence, concatenated pairs, exact lengths, masked statistics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from models.conformer import rotated
from models.layers import gru_kernel
from models.layers.frames import Convolution, FrameNorm, LockedDropout, Pyramid, valid
from models.layers.lengths import Lengths
from models.layers.recurrent import Bidirectional, PackedFrames, Unidirectional, padded
from registry import InputError, create_model


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_two_padded_passes_equal_the_packed_layer(cell, lengths, seed):
    """Outputs and gradients to 1e-5, for unequal lengths in any order."""
    torch.manual_seed(seed)
    layer = Bidirectional(6, 5, cell=cell)
    ends = torch.tensor(lengths)
    x = torch.randn(len(lengths), max(lengths), 6)
    inside = valid(ends, x.shape[1])[:, :, None]
    weights = torch.randn(len(lengths), max(lengths), 10)

    def packed(x, ends):
        return padded(layer.over_packed(PackedFrames.of(x, Lengths.of(ends))))

    results = []
    for run in (packed, layer.reversed):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = run(leaf, ends) * inside
        (y * weights).sum().backward()
        results.append([y.detach(), leaf.grad * inside, *(p.grad.clone() for p in layer.parameters())])
    for of_packed, of_reversed in zip(*results, strict=True):
        torch.testing.assert_close(of_reversed, of_packed, atol=1e-5, rtol=1e-5)


def test_a_gru_multiplies_with_one_thread_and_leaves_the_number_of_others_as_it_was(monkeypatch):
    def blas_threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen = []
    for name in ("_forward", "_backward"):
        compiled = getattr(gru_kernel, name)
        monkeypatch.setattr(
            gru_kernel, name, lambda *given, compiled=compiled: (seen.append(blas_threads()), compiled(*given))
        )
    layer = Bidirectional(6, 5, cell="gru")
    layer.reversed(torch.randn(2, 9, 6), torch.tensor([9, 7])).sum().backward()  # loads the libraries
    seen.clear()
    with threadpool_limits(3, user_api="blas"):
        layer.reversed(torch.randn(2, 9, 6), torch.tensor([9, 7])).sum().backward()
        assert blas_threads() == {3}
    assert seen == [{1}] * 4  # two directions, there and back


def test_pyramid_joins_pairs_and_keeps_an_odd_last_frame():
    x = torch.arange(1.0, 11.0).view(1, 5, 2).repeat(2, 1, 1)
    joined, lengths = Pyramid(2)(x, Lengths(torch.tensor([5, 3])))
    assert lengths.host.tolist() == [3, 2]
    assert joined[0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 0]]
    assert joined[1, :2].tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]


@given(frames=st.integers(1, 40), stride=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_convolution_keeps_exact_lengths(frames, stride):
    layer = Convolution(3, 4, kernel=5, stride=stride).eval()
    y, lengths = layer(torch.randn(1, frames, 3), Lengths(torch.tensor([frames])))
    assert y.shape[1] == lengths.total == -(-frames // stride)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel 4 is even"):
        Convolution(3, 4, kernel=4)


@pytest.mark.parametrize("gathers", [True, False])
def test_norm_statistics_see_valid_frames_only(gathers, monkeypatch):
    monkeypatch.setattr(FrameNorm, "gathers", staticmethod(lambda x: gathers))
    x = torch.randn(3, 10, 4)
    ends = torch.tensor([10, 6, 2])
    norm = FrameNorm(4)
    y = norm(x, ends)
    rows = torch.cat([x[i, :end] for i, end in enumerate(ends.tolist())])
    expected = (rows - rows.mean(dim=0)) / (rows.var(dim=0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(torch.cat([y[i, :end] for i, end in enumerate(ends.tolist())]), expected)
    assert y[1, 6:].abs().sum() == 0


def test_locked_dropout_holds_its_mask_over_time():
    torch.manual_seed(0)
    y = LockedDropout(0.75).train()(torch.ones(4, 7, 50))
    assert torch.equal(y, y[:, :1].expand_as(y)) and set(y.unique().tolist()) == {0.0, 4.0}
    assert float(y.mean()) == pytest.approx(1.0, abs=0.5)
    assert not torch.equal(y[0], y[1])
    assert torch.equal(LockedDropout(0.75).eval()(y), y)


def test_rotation_makes_products_depend_on_distance_only():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 12, 8)
    products = rotated(query) @ rotated(key).transpose(2, 3)
    for distance in (-5, 0, 3):
        along = products[0, 0].diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(products[0, 0, 0, 0], products[0, 0, 0, 5], atol=1e-2)
    torch.testing.assert_close(rotated(query).norm(dim=3), query.norm(dim=3))


def test_rotation_multiplies_by_complex_numbers():
    """Values k and D / 2 + k of frame t are one number, which is turned by t 10000^(-2k / D)."""
    x = torch.randn(2, 3, 12, 8)
    angles = torch.arange(12.0)[:, None] * 10_000 ** (-torch.arange(4.0) / 4)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rotated(x), torch.cat([turned.real, turned.imag], dim=3))


@pytest.mark.parametrize("layer", [Bidirectional(3, 4), Unidirectional(3, 4, cell="lstm")])
def test_an_lstm_starts_with_forget_gates_that_are_open(layer):
    """The gates are in PyTorch's order: input, forget, cell, output."""
    biases = {name: bias.view(4, 4) for name, bias in layer.rnn.named_parameters() if name.startswith("bias")}
    for name, gates in biases.items():
        assert [bool((gate == 1).all()) for gate in gates] == [False, name.startswith("bias_ih"), False, False]


def test_a_conformer_without_convolutions_is_refused():
    """They make the width of the blocks."""
    with pytest.raises(InputError, match="--strides: none given"):
        create_model("conformer_small", features=5, classes=6, strides=())
