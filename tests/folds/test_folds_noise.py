"""White noise and a constant offset on training batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from folds.data.augmentation import SpecAugment, add_noise, augment
from folds.data.batches import Batch

OFF = {"time_mask": 0, "feature_mask": 0, "speed": 0.0}
LENGTHS = [400, 250, 399]


def plain() -> Batch:
    features = torch.zeros(3, 400, 64)
    for row, length in enumerate(LENGTHS):
        features[row, :length] = 1.0
    return Batch(features, torch.tensor(LENGTHS), torch.tensor([1, 2, 3]), torch.ones(3).long(), (0, 1, 2))


def added(seed: int = 0, views: int = 1, **options: float) -> np.ndarray:
    """What is added to each view `(views N, T, F)`; padding must stay 0."""
    batch = augment(plain(), SpecAugment(**OFF, **options), 4, torch.Generator(), views=views, keep_unmasked=True)
    assert batch.unmasked is not None and torch.equal(batch.unmasked, plain().features)
    torch.manual_seed(seed)
    batch = add_noise(batch, SpecAugment(**OFF, **options))
    changed = batch.features.numpy() - np.tile(plain().features.numpy(), (views, 1, 1))
    for row, length in enumerate(LENGTHS * views):
        assert not changed[row, length:].any()
    return changed


def test_noise_has_the_given_deviation_and_no_two_frames_share_it():
    noise = added(noise=0.5)
    for row, length in enumerate(LENGTHS):
        values = noise[row, :length]
        assert values.std() == pytest.approx(0.5, rel=0.03) and abs(values.mean()) < 0.02
        assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.03


def test_an_offset_is_the_same_in_all_frames_and_differs_by_feature_and_utterance():
    offset = added(offset=0.2)
    first = offset[:, 0]
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(offset[row, :length], np.tile(first[row], (length, 1)), atol=1e-6)
    assert len(np.unique(first)) == first.size and first.std() == pytest.approx(0.2, rel=0.15)


def test_both_follow_from_the_seed_and_views_draw_their_own():
    one, again, other = (added(seed, views=2, noise=0.5, offset=0.2) for seed in (3, 3, 4))
    assert np.array_equal(one, again) and not np.allclose(one, other, atol=0.01)
    assert not np.allclose(one[:3], one[3:], atol=0.01)


def test_without_them_the_draws_of_masks_are_as_before():
    """So a run without noise is repeated to the last bit."""
    generator = torch.Generator().manual_seed(5)
    options = SpecAugment(**OFF)
    batch = augment(plain(), options, 4, generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())
    state = torch.get_rng_state()
    assert batch.noisy is None and add_noise(batch, options) is batch and torch.equal(torch.get_rng_state(), state)


def test_a_masked_value_stays_zero():
    options = SpecAugment(time_mask=40, time_every=50, feature_mask=20, feature_masks=2, speed=0.0, noise=1.0)
    masked = augment(plain(), options, 4, torch.Generator().manual_seed(0))
    noisy = add_noise(masked, options).features
    assert 0.05 < float((noisy[0] == 0).float().mean()) < 0.95
    assert torch.equal(noisy == 0, masked.features == 0)
