"""Patches of frames against a loop over frames, and models that no later frame changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models_contract import batch, build
from torch.nn import GRU, LSTM

from models import create_model
from models.layers import Lengths, Patches, Unidirectional
from registry import InputError, list_models

CAUSAL = list_models(tags="causal")


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3), size=st.integers(1, 9), stride=st.integers(1, 9))
def test_patches_are_the_last_frames_at_each_stride(lengths, size, stride):
    if size < stride:
        with pytest.raises(ValueError, match=f"{size} frames every {stride} skip frames"):
            Patches(2, size, stride)
        return
    x = torch.randn(len(lengths), max(lengths), 2)
    patches, ends = Patches(2, size, stride)(x, Lengths(torch.tensor(lengths)))
    assert ends.host.tolist() == [-(-length // stride) for length in lengths]
    assert patches.shape == (len(lengths), -(-max(lengths) // stride), 2 * size)
    for row, length in enumerate(lengths):
        for j in range(int(ends.host[row])):
            window = range((j + 1) * stride - size, (j + 1) * stride)
            frames = [x[row, t] if 0 <= t < length else torch.zeros(2) for t in window]
            assert torch.equal(patches[row, j], torch.cat(frames))


@pytest.mark.parametrize("cell", [GRU, LSTM])
def test_a_layer_in_one_direction_is_that_of_torch(cell):
    torch.manual_seed(0)
    layer, expected = Unidirectional(3, 5, cell=cell.__name__.lower()), cell(3, 5, batch_first=True)
    expected.load_state_dict(layer.rnn.state_dict())
    x, lengths = torch.randn(2, 7, 3), Lengths(torch.tensor([7, 4]))
    y, ends = layer(x, lengths)
    assert ends is lengths
    torch.testing.assert_close(y, expected(x)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_later_frames_never_change_earlier_outputs(name):
    """Neither frames that are changed, nor frames that are not there yet."""
    model = build(name).eval()
    (x, _), frames, stride = batch(48), 48, model.stride
    whole, _ = model(x, torch.tensor([frames]))
    for heard in (1, stride, 17, 20, 33):
        changed = x.clone()
        changed[:, heard:] = torch.randn(1, frames - heard, x.shape[2]) * 10
        complete = heard // stride  # outputs whose frames are all there
        after_change, _ = model(changed, torch.tensor([frames]))
        torch.testing.assert_close(after_change[:, :complete], whole[:, :complete], atol=1e-6, rtol=1e-6)
        assert not torch.allclose(after_change[:, complete:], whole[:, complete:], atol=1e-2)
        so_far, _ = model(x[:, :heard], torch.tensor([heard]))
        torch.testing.assert_close(so_far[:, :complete], whole[:, :complete], atol=1e-6, rtol=1e-6)


def test_the_streaming_models_are_causal_and_others_are_not():
    assert CAUSAL == ["gru_stream", "gru_stream_small"]
    model = build("gru_patches").eval()
    x, ends = batch(48)
    changed = x.clone()
    changed[:, 40:] = 10.0
    assert not torch.allclose(model(x, ends)[0][:, 0], model(changed, ends)[0][:, 0], atol=1e-4)


def test_patches_that_skip_frames_are_refused():
    with pytest.raises(InputError, match="--patch 3 --stride 4: expected patches of at least 4 frames"):
        create_model("gru_stream", features=3, classes=4, patch=3)
