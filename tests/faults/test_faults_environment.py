"""Environment variables that hold something else than expected end in one line that names the variable."""

from __future__ import annotations

import pytest

from folds.training.distributed import ProcessGroup, joined_group
from registry import InputError


@pytest.mark.parametrize("text", ["abc", "", "-1", "0", "2.0", "\u0663", "1" * 5000])
def test_world_size_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(InputError) as error, joined_group("cpu"):
        pass
    assert str(error.value).startswith("environment variable WORLD_SIZE is ")
    assert len(str(error.value)) < 200 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_torchrun_variable_that_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "2" if variable == "WORLD_SIZE" else "0")
    monkeypatch.delenv(name)
    with pytest.raises(InputError, match=f"environment variable {name} is ''"), joined_group("cpu"):
        pass


def test_one_process_needs_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_group("cpu") as group:
        assert group == ProcessGroup()
