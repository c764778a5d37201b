"""log(exp a + exp b) in float32, written so that LLVM vectorises a loop over it.

numba has no vector exp or log without Intel's SVML, and a library call for each prefix in each frame is what makes a
plain beam search slow. Infinities (callers use a large negative number for log 0) and NaN are not supported.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# The search produces neither NaN nor infinity, but must detect NaN in its input: hence no "nnan", and no flag that
# reorders sums.
FAST = {"contract", "nsz"}

_LOG2E = np.float32(1 / math.log(2))
_LN2 = np.float32(math.log(2))
_FAR = np.float32(30.0)  # exp(-30) is far below float32's resolution of 1
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of the mantissa


@intrinsic
def _power_of_two(typing_context, shifted):
    """2**n as float32 from the float32 `n + _ROUND`, by moving n's bits into the exponent."""

    def build(context, builder, signature, arguments):
        word = ir.IntType(32)
        bits = builder.add(builder.bitcast(arguments[0], word), ir.Constant(word, 127))
        return builder.bitcast(builder.shl(bits, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.float32), build


def _coefficients(function: Callable, low: float, high: float, degree: int) -> tuple[np.float32, ...]:
    """Chebyshev interpolation of `function` as float32 coefficients, lowest power first."""
    fit = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return tuple(np.float32(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


_EXP = _coefficients(np.exp, -math.log(2) / 2, math.log(2) / 2, 6)
_LOG1P = _coefficients(lambda y: np.log1p(y) / y, 1e-9, 1.0, 9)


@njit(inline="always")
def log_add(a, b):
    """log(exp a + exp b) of finite float32, with an error of 1e-7 besides the rounding of the result."""
    high = a if a > b else b
    low = b if a > b else a
    d = low - high
    d = d if d > -_FAR else -_FAR
    shifted = d * _LOG2E + _ROUND
    r = d - (shifted - _ROUND) * _LN2
    e0, e1, e2, e3, e4, e5, e6 = _EXP
    y = e0 + r * (e1 + r * (e2 + r * (e3 + r * (e4 + r * (e5 + r * e6)))))
    y *= _power_of_two(shifted)  # type: ignore[call-arg]  # numba passes the typing context
    l0, l1, l2, l3, l4, l5, l6, l7, l8, l9 = _LOG1P
    p = l0 + y * (l1 + y * (l2 + y * (l3 + y * (l4 + y * (l5 + y * (l6 + y * (l7 + y * (l8 + y * l9))))))))
    return high + y * p
