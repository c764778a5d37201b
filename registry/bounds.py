"""Bounds of numeric options in the metadata of dataclass fields, checked at construction and used as search space.

>>> @dataclasses.dataclass
... class Recipe(Bounded):
...     lr: float = number(0.002, above=0, at_most=1, scale="log", search=(3e-4, 0.01))
>>> Recipe(lr=-1.0)
Traceback (most recent call last):
registry.errors.InputError: --lr -1.0: expected a fraction in (0, 1]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from registry.errors import InputError

Scale = Literal["linear", "log"]
_KEY = "bounds"

MAX_SEED = 2**32 - 1
"""The largest seed that every random number generator in use accepts."""
MAX_THREADS = 1024
MAX_DELAY = 1000
"""Frames by which features can be delayed; see `folds.delay`."""
MAX_UTTERANCES = 10_000_000
"""Upper bound of options that count utterances."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The range of a number, from `lower` to `upper`, each inclusive or exclusive, and the scale for searching it."""

    lower: float
    upper: float
    includes_lower: bool = True
    includes_upper: bool = True
    scale: Scale = "linear"
    odd: bool = False
    """Whether only odd numbers are accepted."""
    search: tuple[float, float] | None = None
    """The part of the range worth searching; None if the number is searched only on request."""
    search_factor: float | None = None
    """Instead of `search`: how far to search from the default, as a factor."""

    def search_range(self, default: float) -> tuple[float, float] | None:
        """The range to search for a field with this default, both ends included; None if there is none.

        >>> number(8, at_least=1, at_most=10, scale="log", search_factor=2).metadata["bounds"].search_range(8)
        (4.0, 10)
        """
        if self.search_factor is None:
            return self.search
        return max(default / self.search_factor, self.lower), min(default * self.search_factor, self.upper)

    def complaint(self, value: float) -> str:
        """What was expected instead of `value`; empty if it is in range. NaN never is."""
        if not (value >= self.lower if self.includes_lower else value > self.lower):
            return self._interval() or self._lower()
        if not (value <= self.upper if self.includes_upper else value < self.upper):
            return self._interval() or f"{'at most' if self.includes_upper else 'less than'} {_text(self.upper)}"
        return "an odd number, so that output lengths are exact" if self.odd and value % 2 == 0 else ""

    def _interval(self) -> str:
        """The whole range if it is from 0 to 1, since users need both ends then; else empty."""
        if (self.lower, self.upper) != (0, 1) or (self.includes_lower and self.includes_upper):
            return ""
        return f"a fraction in {'[' if self.includes_lower else '('}0, 1{']' if self.includes_upper else ')'}"

    def _lower(self) -> str:
        if not self.includes_lower:
            return f"more than {_text(self.lower)}"
        return "0 or more" if self.lower == 0 else f"at least {_text(self.lower)}"


def number(
    default: Any = dataclasses.MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    scale: Scale = "linear",
    odd: bool = False,
    search: tuple[float, float] | None = None,
    search_factor: float | None = None,
) -> Any:
    """A dataclass field for a number, or a tuple of numbers, with bounds; None and booleans are always accepted.

    `at_least` or `above`, and `at_most` or `below`, are required: without an upper bound, infinity would be accepted.
    They define legal values; `folds.tune` searches within `search`, or from the default divided by `search_factor` to
    the default times it, which suits both the small and the large variants of a model.
    """
    lower, upper = (at_least if above is None else above), (at_most if below is None else below)
    if lower is None or upper is None or None not in (at_least, above) or None not in (at_most, below):
        raise TypeError("a number has one lower bound (at_least or above) and one upper bound (at_most or below)")
    searched = lower if search is None else search[0]
    if scale == "log" and (searched < 0 or (searched == 0 and above is None)):
        raise TypeError("a number on a logarithmic scale is positive: pass above=0, or at_least more than 0")
    bounds = Bounds(lower, upper, above is None, below is None, scale, odd, search, search_factor)
    if search is not None and (search[0] >= search[1] or any(map(bounds.complaint, search))):
        raise TypeError(f"search={search}: expected a range within the bounds")
    return dataclasses.field(default=default, metadata={_KEY: bounds})


def bounds_of(field: dataclasses.Field[Any]) -> Bounds | None:
    """The bounds of a field made by `number`; None for any other."""
    return field.metadata.get(_KEY)


def check_numbers(
    options: Any, usual: Callable[[dataclasses.Field[Any], Any], Bounds | None] = lambda field, value: None
) -> None:
    """Raise InputError, naming the option, for the first number of a dataclass instance that is out of bounds.

    `usual(field, number)` returns the bounds of fields that declare none.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if not isinstance(item, (int, float)) or isinstance(item, bool):
                continue
            bounds = bounds_of(field) or usual(field, item)
            if bounds is not None and (expected := bounds.complaint(item)):
                raise InputError(f"--{field.name.replace('_', '-')} {value}: expected {expected}")


class Bounded:
    """Base class of dataclasses whose numbers are checked at construction.

    A subclass that overrides `__post_init__` calls this one first.
    """

    def __post_init__(self) -> None:
        check_numbers(self)


def _text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
