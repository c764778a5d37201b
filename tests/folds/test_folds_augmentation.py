"""Masks and changes of speed: drawn for each utterance, never past its bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from folds.data.augmentation import SpecAugment, augment
from folds.data.batches import Batch
from registry import InputError


def noise(features: torch.Tensor, lengths: torch.Tensor | None = None) -> Batch:
    """A batch of these features, one label per utterance."""
    count = len(features)
    lengths = torch.full((count,), features.shape[1]) if lengths is None else lengths
    return Batch(features, lengths, torch.ones(count).long(), torch.ones(count).long(), tuple(range(count)))


def test_masks_are_drawn_for_each_utterance_and_stay_inside_it():
    lengths = torch.tensor([600, 600, 130])
    x = torch.ones(3, 600, 13)
    options = SpecAugment(time_mask=30, time_every=120, feature_mask=0, speed=0)
    y = augment(noise(x, lengths), options, 4, torch.Generator().manual_seed(3)).features
    hidden = (y == 0).all(dim=2)
    assert not torch.equal(hidden[0], hidden[1]) and torch.equal((y == 0).any(dim=2), hidden)
    assert hidden[0].sum() <= 5 * 30 and hidden[2].sum() <= 30 and not hidden[2, 130:].any()
    assert torch.equal(x, torch.ones(3, 600, 13))


def test_feature_masks_cover_the_whole_utterance():
    options = SpecAugment(time_mask=0, feature_mask=3, feature_masks=1, speed=0)
    y = augment(noise(torch.ones(50, 20, 13)), options, 4, torch.Generator().manual_seed(0)).features
    hidden = (y == 0).all(dim=1)
    assert torch.equal((y == 0).any(dim=1), hidden)
    assert set(hidden.sum(dim=1).tolist()) == {0, 1, 2, 3}
    none = SpecAugment(time_mask=0, feature_mask=0, speed=0)
    assert torch.equal(augment(noise(y), none, 4, torch.Generator()).features, y)


@pytest.mark.parametrize("most", [3, 26])
def test_feature_masks_have_every_place_and_at_most_all_features(most):
    expected = np.zeros(13)
    for width in (min(width, 13) for width in range(most + 1)):
        for start in range(14 - width):
            expected[start : start + width] += 1 / (most + 1) / (14 - width)
    options = SpecAugment(time_mask=0, feature_mask=most, speed=0)
    masked = augment(noise(torch.ones(4000, 1, 13)), options, 4, torch.Generator().manual_seed(0)).features
    np.testing.assert_allclose((masked == 0).float().mean(dim=(0, 1)), expected, atol=0.025)


def test_an_utterance_has_several_feature_masks_of_their_own():
    options = SpecAugment(time_mask=0, feature_mask=1, feature_masks=3, speed=0)
    masked = augment(noise(torch.ones(500, 1, 13)), options, 4, torch.Generator().manual_seed(0)).features
    assert set((masked == 0).sum(dim=(1, 2)).tolist()) == {0, 1, 2, 3}


def test_masks_follow_the_generator():
    x = noise(torch.ones(4, 300, 13))
    options = SpecAugment(speed=0.1)
    first, second, other = (augment(x, options, 4, torch.Generator().manual_seed(s)).features for s in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_a_change_of_speed_interpolates_and_keeps_both_ends():
    """A straight line stays a straight line between the same ends, whatever the speed."""
    line = torch.linspace(0, 1, 101).view(1, 101, 1).repeat(20, 1, 1)
    options = SpecAugment(time_mask=0, feature_mask=0, speed=0.2)
    faster = augment(noise(line), options, 4, torch.Generator().manual_seed(0))
    assert 80 <= int(faster.lengths.min()) < 95 and 107 < int(faster.lengths.max()) <= 127
    for row, length in zip(faster.features[:, :, 0], faster.lengths.tolist(), strict=True):
        torch.testing.assert_close(row[:length], torch.linspace(0, 1, length), atol=1e-5, rtol=0)
        assert not row[length:].any()


def test_no_speed_makes_an_utterance_too_short_for_its_labels():
    """Two equal labels need three output frames: 12 input frames at stride 4, and no frame fewer."""
    batch = Batch(torch.ones(50, 12, 1), torch.full((50,), 12), torch.ones(100).long(), torch.full((50,), 2), ())
    options = SpecAugment(time_mask=0, feature_mask=0, speed=0.3)
    assert int(augment(batch, options, 4, torch.Generator().manual_seed(0)).lengths.min()) == 12
    different = Batch(batch.features, batch.lengths, torch.tensor([1, 2] * 50), batch.target_lengths, ())
    assert int(augment(different, options, 4, torch.Generator().manual_seed(0)).lengths.min()) < 11


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_mask": -1}, "--time-mask -1: expected 0 or more"),
        ({"time_every": 0}, "--time-every 0: expected at least 1"),
        ({"feature_mask": -2}, "--feature-mask -2: expected"),
        ({"feature_masks": -1}, "--feature-masks -1: expected"),
        ({"speed": 1.0}, r"--speed 1.0: expected a fraction in \[0, 1\)"),
    ],
)
def test_impossible_augmentation_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SpecAugment(**settings)


def test_views_are_at_one_speed_and_masked_apart():
    """Agreement is measured frame by frame, so frame j must be the same sound in both views."""
    x = noise(torch.rand(20, 200, 13) + 1)
    options = SpecAugment(time_mask=30, feature_mask=0, speed=0.1)
    both = augment(x, options, 4, torch.Generator().manual_seed(0), views=2)
    assert both.lengths[:20].tolist() == both.lengths[20:].tolist() and both.lengths[:20].unique().numel() > 5
    first, second = both.features[:20], both.features[20:]
    visible = (first != 0) & (second != 0)
    assert torch.equal(first[visible], second[visible]) and not torch.equal(first, second)


def time_masked(count: int, frames: int, **options) -> torch.Tensor:
    """Which frames of `count` utterances of ones are masked, bool `(count, frames)`."""
    ones = torch.ones(count, dtype=torch.int64)
    batch = Batch(torch.ones(count, frames, 2), torch.full((count,), frames), ones, ones, ())
    masks = SpecAugment(feature_mask=0, speed=0, **options)
    return (augment(batch, masks, 4, torch.Generator().manual_seed(0)).features == 0)[:, :, 0]


def test_time_masks_have_every_width_and_place_and_their_number():
    hidden = time_masked(2000, 50, time_mask=6, time_every=100)
    assert set(hidden.sum(dim=1).tolist()) == set(range(7))
    share = hidden[:, 6:-6].float().mean(dim=0)  # away from the ends, every frame as often
    assert hidden[:, 0].any() and hidden[:, -1].any() and share.max() < 1.5 * share.min()
    hidden = time_masked(200, 600, time_mask=5, time_every=100)
    runs = (hidden.int().diff(dim=1, prepend=torch.zeros(200, 1, dtype=torch.int)) == 1).sum(dim=1)
    assert runs.max() == 6 and runs.float().mean() > 4
