"""What the tests of formats and cache share: object arrays, messages of one line, and whether datasets are equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from folds.data.dataset import Dataset
from folds.store.ragged import Ragged
from registry.errors import InputError


def save_object_array(path: Path, elements: list) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    np.save(path, array, allow_pickle=True)


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def same_data(a: Dataset, b: Dataset) -> bool:
    return a.hash == b.hash and all(
        one.ids == two.ids and _equal(one.frames, two.frames) and _equal(one.tokens, two.tokens)
        for one, two in zip((a.train, a.dev, a.test), (b.train, b.dev, b.test), strict=True)
    )


def _equal(a: Ragged | None, b: Ragged | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a.values, b.values) and np.array_equal(a.offsets, b.offsets)
