"""Defensive reading of `.npy` files: a truncated, foreign or pickled file gives a one-line error.

`numpy.load` would also open zip files and pickles, and reports "cannot reshape" for a truncated file. Object arrays,
which can run arbitrary code when they are loaded, are read only by `read_ragged` and only with `allow_pickle`.
Everything that NumPy returns is checked here, so that callers get arrays of numbers or strings and nothing else.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from registry.errors import InputError, one_line
from registry.files import check_regular, read_regular

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_KINDS = "biufSU"
"""dtype kinds of numbers and strings; structured types and times are not among them."""
_LAST_CHARACTER = 0x10FFFF
_MAX_DIMENSIONS = 8
_MAX_REASON = 160


class _NpyHeader(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def read_array(path: Path) -> np.ndarray:
    """One `.npy` file of numbers or strings, read-only.

    Raises InputError for a file that is truncated, not a `.npy` file, an object array, or of another type.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    stream = io.BytesIO(data)
    shape, fortran, dtype = _header(path, stream)
    if dtype.hasobject:
        raise InputError(
            f"{path}: an object array, which must be unpickled, and a pickle may run any code; "
            f"expected plain numbers or strings; save it again with a plain dtype"
        )
    if dtype.kind not in _KINDS or not dtype.itemsize:
        raise InputError(f"{path}: an array of {dtype}; expected plain numbers or strings; save it again as those")
    start, needed = stream.tell(), math.prod(shape) * dtype.itemsize
    if len(data) - start < needed:
        raise InputError(
            f"{path}: truncated: {len(data) - start} bytes of data; expected {needed} for shape {shape} of {dtype}; "
            f"copy or download it again"
        )
    array = np.frombuffer(data, dtype, math.prod(shape), start) if needed else np.empty(0, dtype)
    if dtype.kind == "U" and _codes(array).max(initial=0) > _LAST_CHARACTER:
        # NumPy accepts such code points; Python later fails on them in one of several ways.
        raise InputError(f"{path}: has invalid code points; copy or download it again")
    return array.reshape(shape, order="F" if fortran else "C")


def _codes(strings: np.ndarray) -> np.ndarray:
    """The code points of an array of strings as a flat array, trailing zeros included."""
    return strings.view(np.dtype(np.uint32).newbyteorder(strings.dtype.byteorder))


def array_length(path: Path) -> int:
    """First dimension of a `.npy` file, from its header only."""
    shape = _read_header(path).shape
    if not shape or not shape[0]:
        raise InputError(f"{path}: found shape {shape}; expected one element per utterance; download it again")
    # An element takes at least a byte. No later code checks this number, and a loop over 10**12 utterances never ends.
    if shape[0] > path.stat().st_size:
        raise InputError(f"{path}: damaged: too short for shape {shape}; copy or download it again")
    return shape[0]


def read_ragged(path: Path, allow_pickle: bool) -> np.ndarray:
    """A `.npy` file with one element per utterance: an object array, or a plain one if all lengths are equal.

    Unpickling an object array can run any code that its author put into it, so it is rejected unless `allow_pickle`. An
    element of an object array may be any object: see `as_numbers`.
    """
    header = _read_header(path)
    if not header.dtype.hasobject:
        return read_array(path)
    if not allow_pickle:
        raise InputError(
            f"{path}: an object array, as this semester's files are: loading it can run any code that was put into "
            f"it; pass --allow-pickle if you trust where it comes from"
        )
    if header.dtype != np.dtype(object):
        raise InputError(f"{path}: an array of {header.dtype}; expected an object array; download it again")
    try:
        # The oldest files were written by Python 2; byte strings in its pickles need an encoding.
        array = np.load(path, allow_pickle=True, encoding="latin1")
    except OSError as error:
        raise _unreadable(path, error) from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle may call anything with any arguments
        raise InputError(
            f"{path}: damaged ({_brief(error)}); expected an object array; copy or download it again"
        ) from None
    if not isinstance(array, np.ndarray) or array.shape != header.shape:
        raise InputError(f"{path}: damaged: not an array of shape {header.shape}; copy or download it again")
    return array


def as_numbers(element: Any, location: str, expected: str) -> np.ndarray:
    """An element of an object array, which may be any object, as an array of numbers.

    It may be an array of numbers, or lists of numbers that form one. Raises InputError, naming `location` and what was
    `expected`, for any other object, including strings that NumPy would convert.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # If all elements have equal length, each is an object array of single numbers.
            plain = element.tolist() if isinstance(element, np.ndarray) and element.dtype.hasobject else element
            array = np.asarray(plain)
    except Exception as error:  # noqa: BLE001 - an object from a pickle may do anything when it is converted
        raise InputError(f"{location}: {_brief(error)}; expected {expected}; download it again") from None
    if array.dtype.kind not in "iuf":
        found = f"shape {array.shape} of {array.dtype}" if array.ndim else type(element).__name__
        raise InputError(f"{location}: found {found}; expected {expected}; download it again")
    return array


def _read_header(path: Path) -> _NpyHeader:
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return _header(path, file)
    except OSError as error:
        raise _unreadable(path, error) from None


def _header(path: Path, stream: BinaryIO) -> _NpyHeader:
    """The header at the start of `stream`, checked. Raises InputError for a damaged one."""
    damaged = InputError(f"{path}: not a .npy file, or a damaged one; copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = _NpyHeader(*_HEADERS[np.lib.format.read_magic(stream)](stream))
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - NumPy evaluates the header as Python text, which fails in many ways
        raise damaged from None
    # NumPy accepts negative and Boolean sizes, and more dimensions than an array can have.
    if len(header.shape) > _MAX_DIMENSIONS or any(type(size) is not int or size < 0 for size in header.shape):
        raise damaged
    if max(header.shape, default=0) > np.iinfo(np.int64).max // max(header.dtype.itemsize, 1):
        raise damaged
    return header


def _brief(error: Exception) -> str:
    """The error's text, shortened if it is long: it may contain a whole damaged file."""
    text = one_line(error)
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({error.strerror}); expected a .npy file; check the folder")
