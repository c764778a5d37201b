"""Careful reading of `.npy` files: truncated, foreign and pickled ones become one clear line.

`numpy.load` would also open zip files and pickles, and reports "cannot reshape" for a truncated file. Object arrays,
which can run any code when they are loaded, are read by `read_ragged` alone and only with `allow_pickle`.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import BinaryIO

import numpy as np

from registry.errors import InputError

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_array(path: Path) -> np.ndarray:
    """One `.npy` file of numbers or strings, read-only.

    Raises InputError for a file that is truncated, not a `.npy` file, or an object array.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    stream = io.BytesIO(data)
    shape, fortran, dtype = _header(path, stream)
    if dtype.hasobject:
        raise InputError(
            f"{path}: an object array, which must be unpickled, and a pickle may run any code; "
            f"expected plain numbers or strings; save it again with a plain dtype"
        )
    start, needed = stream.tell(), math.prod(shape) * dtype.itemsize
    if len(data) - start < needed:
        raise InputError(
            f"{path}: truncated: {len(data) - start} bytes of data; expected {needed} for shape {shape} of {dtype}; "
            f"copy or download it again"
        )
    array = np.frombuffer(data, dtype, math.prod(shape), start) if needed else np.empty(math.prod(shape), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def array_length(path: Path) -> int:
    """First dimension of a `.npy` file, from its header alone."""
    try:
        with open(path, "rb") as file:
            shape, _, _ = _header(path, file)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not shape or not shape[0]:
        raise InputError(f"{path}: found shape {shape}; expected one element per utterance; download it again")
    return shape[0]


def read_ragged(path: Path, allow_pickle: bool) -> np.ndarray:
    """A `.npy` file with one element per utterance: an object array, or a plain one where all lengths are equal.

    Unpickling an object array can run any code that its author put into it, so it is refused unless `allow_pickle`.
    """
    try:
        with open(path, "rb") as file:
            _, _, dtype = _header(path, file)
        if not dtype.hasobject:
            return read_array(path)
        if not allow_pickle:
            raise InputError(
                f"{path}: an object array, as this semester's files are: loading it can run any code that was put into "
                f"it; pass --allow-pickle if you trust where it comes from"
            )
        # The oldest files were written by Python 2, whose byte strings inside a pickle need a codec.
        return np.load(path, allow_pickle=True, encoding="latin1")
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, EOFError, AttributeError, ImportError, IndexError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: damaged ({error}); expected an object array; copy or download it again") from None


def _header(path: Path, stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        return _HEADERS[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError, EOFError):
        raise InputError(f"{path}: not a .npy file, or a damaged one; copy or download it again") from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({error.strerror}); expected a .npy file; check the folder")
