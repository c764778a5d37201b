"""The number of CPU threads for the load of the machine alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folds.training.threads import adapted_threads


@pytest.mark.parametrize(
    ("present", "cores", "others", "expected"),
    [
        (1, 2, [0.0], 2),  # idle
        (1, 2, [0.1], 2),  # as good as idle
        (1, 2, [0.3], 1),  # not idle enough to begin with
        (2, 2, [0.3], 2),  # nor busy enough to give up
        (2, 2, [0.4], 1),
        (2, 2, [1.0], 1),
        (1, 2, [1.0], 1),
        (1, 2, [2.0], 1),  # never none
        (1, 8, [0.0], 8),
        (8, 8, [3.2], 5),
        (5, 8, [3.2], 5),
        (5, 8, [0.0], 8),
        (1, 2, [1.0, 0.0, 0.0], 1),  # not idle for long enough
        (2, 2, [0.0, 0.0, 1.0], 1),  # a busy window counts at once
    ],
)
def test_as_many_threads_as_there_are_idle_cores(present, cores, others, expected):
    assert adapted_threads(present, cores, others, most=8) == expected
    assert adapted_threads(present, cores, others, most=3) == min(expected, 3)


@given(
    present=st.integers(1, 64),
    cores=st.integers(1, 64),
    others=st.lists(st.floats(0, 70), min_size=1, max_size=3),
    most=st.integers(1, 64),
)
def test_a_number_is_kept_until_the_load_changes_much(present, cores, others, most):
    """Once chosen, it stays while the load does, and while it changes by less than a tenth of a core."""
    chosen = adapted_threads(present, cores, others, most)
    assert 1 <= chosen <= most
    assert adapted_threads(chosen, cores, others, most) == chosen
    for change in (-0.09, 0.09):
        moved = [max(0.0, load + change) for load in others]
        later = adapted_threads(chosen, cores, moved, most)
        assert adapted_threads(later, cores, others, most) == later  # it may move once, and does not move back


@pytest.mark.parametrize("cores", [2, 4, 8])
@pytest.mark.parametrize("at_once", [True, False])
def test_runs_side_by_side_share_the_cores(cores, at_once):
    """Each sees what the other uses, where the system shares the cores equally among all threads.

    Runs that measure at the same moments get equal numbers; otherwise the one that measures first may get fewer.
    """

    def others(counts: list[int], run: int) -> float:
        return counts[1 - run] * min(1.0, cores / sum(counts))

    counts = [cores, cores]
    for _ in range(10):
        seen = [others(counts, 0), others(counts, 1)]
        counts[0] = adapted_threads(counts[0], cores, seen[:1], cores)
        seen = seen if at_once else [others(counts, 0), others(counts, 1)]
        counts[1] = adapted_threads(counts[1], cores, seen[1:], cores)
    assert sum(counts) == cores and (not at_once or counts[0] == counts[1])
    assert adapted_threads(counts[0], cores, [0.0], cores) == cores  # the other one has ended
