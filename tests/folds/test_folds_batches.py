"""Folds, batches and masks: nothing lost, nothing leaked, nothing past its bounds."""

from __future__ import annotations

import itertools
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folds.data.augmentation import SpecAugment, augment
from folds.data.batches import Batch, collate, padding_share, plan, prefetched, repeated
from folds.data.dataset import Split
from folds.data.speaker_folds import FOLD_ASSIGNMENT, assign_speakers, speaker_folds, speaker_subset
from folds.store.ragged import Ragged, offsets_of
from registry import InputError

some_lengths = st.lists(st.integers(1, 400), min_size=1, max_size=60)


def split_of(lengths: list[int], speakers: list[int] | None = None) -> Split:
    speakers = speakers or [0] * len(lengths)
    frames = np.arange(sum(lengths), dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    counts = [1 + n % 3 for n in lengths]
    tokens = (np.arange(sum(counts)) % 5 + 1).astype(np.int16)
    ids = tuple(f"{speaker}-1-{i:04d}" for i, speaker in enumerate(speakers))
    return Split("train", ids, Ragged(frames, offsets_of(lengths)), Ragged(tokens, offsets_of(counts)))


@settings(deadline=None, max_examples=60)
@given(lengths=some_lengths, frames=st.integers(1, 2000), seed=st.none() | st.integers(0, 9), epoch=st.integers(0, 3))
def test_a_plan_holds_each_utterance_once_within_the_budget(lengths, frames, seed, epoch):
    lengths = np.array(lengths)
    batches = plan(lengths, frames=frames, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or lengths[batch].max() * len(batch) <= frames for batch in batches)
    again = plan(lengths, frames=frames, seed=seed, epoch=epoch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_epochs_differ_and_padding_stays_small():
    lengths = np.random.default_rng(0).integers(200, 1600, 3000)
    one, two = (plan(lengths, frames=16_000, seed=0, epoch=e) for e in (1, 2))
    assert any(not np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(one, two, strict=False))
    assert padding_share(lengths, one) < 0.08 and padding_share(np.array([3, 3]), [np.array([0, 1])]) == 0
    assert padding_share(np.array([4, 2]), [np.array([0, 1])]) == pytest.approx(0.25)


def test_collate_pads_with_zeros_and_joins_targets():
    split = split_of([3, 1, 2], [7, 8, 9])
    batch = collate(split, [2, 0])
    assert batch.groups == ("9", "7")
    assert batch.lengths.tolist() == [2, 3] and batch.indices == (2, 0)
    assert batch.features[:, :, 0].tolist() == [[4, 5, 0], [0, 1, 2]]
    assert batch.targets.tolist() == [*split.labels(2).tolist(), *split.labels(0).tolist()]
    assert batch.target_lengths.tolist() == [len(split.labels(2)), len(split.labels(0))]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_prefetching_keeps_the_order(count):
    split = split_of([3, 1, 2, 5, 4])
    batches = [np.array([i]) for i in range(count)]
    assert [batch.indices for batch in prefetched(partial(collate, split), batches)] == [(i,) for i in range(count)]


@settings(deadline=None, max_examples=30)
@given(
    speakers=st.lists(st.integers(0, 12), min_size=20, max_size=80).filter(lambda s: len(set(s)) >= 4),
    folds=st.integers(2, 4),
)
def test_no_speaker_is_in_two_folds_and_no_fold_is_empty(speakers, folds):
    fold_of = speaker_folds(split_of([100 + i for i in range(len(speakers))], speakers), folds)
    assert set(fold_of.tolist()) == set(range(folds))
    for speaker in set(speakers):
        assert len({f for f, s in zip(fold_of.tolist(), speakers, strict=True) if s == speaker}) == 1


fold_cases = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 400)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(utterances=fold_cases, data=st.data())
def test_folds_are_the_greedy_assignment(utterances, data):
    speakers, lengths = [speaker for speaker, _ in utterances], [length for _, length in utterances]
    folds = data.draw(st.integers(2, len(set(speakers)))) if len(set(speakers)) > 1 else 1
    fold_of = speaker_folds(split_of(lengths, speakers), folds).tolist()
    if folds == 1:
        return
    frames = {str(s): sum(n for t, n in utterances if t == s) for s in set(speakers)}
    fold_of_speaker = dict(zip(map(str, speakers), fold_of, strict=True))
    # No fold can differ from another by more than the largest speaker.
    totals = [sum(n for s, n in frames.items() if fold_of_speaker[s] == fold) for fold in range(folds)]
    assert min(totals) > 0 and max(totals) - min(totals) <= max(frames.values())
    # Each speaker, in the order of the rule, went to the first of the folds with the fewest frames before it.
    order = sorted(frames, key=lambda s: (-frames[s], s))
    for position, speaker in enumerate(order):
        before = [sum(frames[s] for s in order[:position] if fold_of_speaker[s] == fold) for fold in range(folds)]
        assert fold_of_speaker[speaker] == before.index(min(before))


@settings(deadline=None, max_examples=40)
@given(frames=st.lists(st.integers(1, 30), min_size=2, max_size=7), folds=st.integers(2, 3))
def test_the_largest_fold_is_within_a_third_of_the_best_possible(frames, folds):
    """Graham (1969): 4/3 - 1/(3 folds) of the optimum, found here by trying all assignments."""
    folds = min(folds, len(frames))
    fold_of = assign_speakers({f"{index:02d}": n for index, n in enumerate(frames)}, folds)
    largest = np.bincount([fold_of[f"{index:02d}"] for index in range(len(frames))], weights=frames).max()
    every = itertools.product(range(folds), repeat=len(frames))
    best = min(np.bincount(assignment, weights=frames).max() for assignment in every)
    assert largest <= best * (4 / 3 - 1 / (3 * folds)) + 1e-9


def test_an_assignment_by_hand():
    """Graham's worst case for three machines, and ties: equal speakers go by name, equal folds by number."""
    assert assign_speakers({"a": 5, "b": 5, "c": 4, "d": 4, "e": 3, "f": 3, "g": 3}, 3) == {
        "a": 0, "b": 1, "c": 2, "d": 2, "e": 0, "f": 1, "g": 0,
    }  # fmt: skip
    assert assign_speakers({"10": 1, "9": 1, "2": 1, "8": 3}, 2) == {"8": 0, "10": 1, "2": 1, "9": 1}
    assert FOLD_ASSIGNMENT == 2


@settings(deadline=None, max_examples=30)
@given(utterances=fold_cases, seed=st.integers(0, 99))
def test_folds_do_not_depend_on_the_order_of_utterances(utterances, seed):
    folds = min(3, len({speaker for speaker, _ in utterances}))
    order = np.random.default_rng(seed).permutation(len(utterances))
    shuffled = [utterances[row] for row in order]
    fold_of, shuffled_folds = (
        speaker_folds(split_of([n for _, n in rows], [s for s, _ in rows]), folds) for rows in (utterances, shuffled)
    )
    assert shuffled_folds.tolist() == fold_of[order].tolist()


def test_folds_are_balanced_in_frames_and_not_in_utterances():
    # Two speakers of one long utterance each, four of four short ones: equal time, unequal counts.
    speakers = [0, 1] + [s for s in (2, 3, 4, 5) for _ in range(4)]
    lengths = [2000, 2000] + [250] * 16
    fold_of = speaker_folds(split_of(lengths, speakers), 2)
    frames = [sum(n for n, f in zip(lengths, fold_of, strict=True) if f == fold) for fold in (0, 1)]
    assert frames == [4000, 4000]


@pytest.mark.parametrize("folds", [0, 4])
def test_a_number_of_folds_the_speakers_cannot_fill_is_refused(folds):
    with pytest.raises(InputError, match=f"--folds {folds}: expected 1 to 3, the number of speakers"):
        speaker_folds(split_of([5, 5, 5], [1, 2, 3]), folds)


def test_one_fold_holds_nothing_out():
    assert speaker_folds(split_of([5, 5, 5], [1, 2, 2]), 1).tolist() == [-1, -1, -1]


def test_fractions_of_the_speakers_are_nested_and_keep_whole_speakers():
    speakers = [number % 10 for number in range(60)]
    split, indices = split_of([5] * 60, speakers), np.arange(5, 60)
    chosen = [set(speaker_subset(split, indices, fraction).tolist()) for fraction in (0.1, 0.25, 0.5, 1.0)]
    for rows, count in zip(chosen, (1, 3, 5, 10), strict=True):
        kept = {speakers[row] for row in rows}
        assert len(kept) == count and rows == {row for row in indices.tolist() if speakers[row] in kept}
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3] == set(indices.tolist())


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


def test_a_batch_is_repeated_utterance_by_utterance():
    features, targets = torch.rand(2, 3, 4), torch.tensor([5, 6, 7])
    one = Batch(features, torch.tensor([3, 1]), targets, torch.tensor([2, 1]), (8, 9), groups=("a", "b"))
    both = repeated(one, 2)
    assert both.groups == ("a", "b", "a", "b")
    assert torch.equal(both.features[:2], one.features) and torch.equal(both.features[2:], one.features)
    assert both.lengths.tolist() == [3, 1, 3, 1] and both.targets.tolist() == [5, 6, 7, 5, 6, 7]
    assert both.target_lengths.tolist() == [2, 1, 2, 1] and both.indices == (8, 9, 8, 9)


def test_views_are_at_one_speed_and_masked_apart():
    """Agreement is measured frame by frame, so frame j must be the same sound in both views."""
    x = noise(torch.rand(20, 200, 13) + 1)
    options = SpecAugment(time_mask=30, feature_mask=0, speed=0.1)
    both = augment(x, options, 4, torch.Generator().manual_seed(0), views=2)
    assert both.lengths[:20].tolist() == both.lengths[20:].tolist() and both.lengths[:20].unique().numel() > 5
    first, second = both.features[:20], both.features[20:]
    visible = (first != 0) & (second != 0)
    assert torch.equal(first[visible], second[visible]) and not torch.equal(first, second)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_preparing_batches_on_a_thread_starts_no_second_team_of_threads():
    """A second OpenMP team on as many cores makes recurrent layers several times slower. In a row: collate, augment."""
    script = """
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
import numpy as np, torch
from folds.data.augmentation import SpecAugment, augment
from folds.data.batches import collate
torch.set_num_threads(2)
torch.ones(1_000_000).exp()  # the main thread's team
split = SimpleNamespace(features=lambda i: np.ones((4000, 28), np.float16), tokens=None, groups=["103"] * 20)
with ThreadPoolExecutor(1) as pool:
    pool.submit(int).result()
    before = len(os.listdir("/proc/self/task"))
    batch = pool.submit(collate, split, range(20)).result()
    print(len(os.listdir("/proc/self/task")) - before)
    pool.submit(augment, batch, SpecAugment(time_every=1), 4, torch.Generator(), views=2).result()
    print(len(os.listdir("/proc/self/task")) - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.split() == ["0", "0"]


def test_epochs_have_other_batches_in_other_orders():
    """Utterances are together with others, and batches do not go from the longest to the shortest."""
    lengths = np.random.default_rng(0).integers(200, 1600, 3000)
    one, two = (plan(lengths, frames=16_000, seed=0, epoch=epoch) for epoch in (1, 2))
    sets = [{tuple(np.sort(batch).tolist()) for batch in batches} for batches in (one, two)]
    assert len(sets[0] & sets[1]) < 0.1 * len(one)
    longest = [int(lengths[batch].max()) for batch in one]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2
    epochs = itertools.product(range(3), range(3))  # no seed has another one's
    assert len({plan(lengths, frames=16_000, seed=s, epoch=e)[0].tobytes() for s, e in epochs}) == 9


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
