"""A GPU's special-function unit in Triton's interpreter: logarithm, exponential and reciprocal with the errors that PTX allows.

Errors of the documented size, a function of the input's bits, as the hardware's are: equal inputs have equal results. PTX ISA:
`ex2.approx.ftz.f32` 2 ulp, `rcp.approx.ftz.f32` 1 ulp, `lg2.approx.ftz.f32` 2^-22, absolute from 0.5 to 2 and relative
elsewhere; numbers below 2^-126 are 0.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.runtime.interpreter as interpreter

SMALLEST = np.float32(2.0**-126)


def _error(x: np.ndarray) -> np.ndarray:
    """From -1 to 1, by the bits of fp32 numbers."""
    scattered = x.astype(np.float32).view(np.uint32).astype(np.uint64) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)
    return scattered.astype(np.float64) / 2.0**31 - 1.0


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < SMALLEST, np.float32(0), x).astype(np.float32)


def log2(x: np.ndarray) -> np.ndarray:
    x = _flushed(x)
    exact = np.log2(x.astype(np.float64))
    near_one = (x > 0.5) & (x < 2)
    return (exact + _error(x) * 2.0**-22 * np.where(near_one | ~np.isfinite(exact), 1.0, np.abs(exact))).astype(
        np.float32
    )


def exp2(x: np.ndarray) -> np.ndarray:
    x = _flushed(x)
    return _flushed(np.exp2(x.astype(np.float64)) * (1 + _error(x) * 2 * 2.0**-23))


def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A division, of which the reciprocal is one."""
    below = _flushed(below)
    return _flushed(above.astype(np.float64) / below.astype(np.float64) * (1 + _error(below) * 2.0**-23))


@contextmanager
def approximated() -> Iterator[None]:
    """Kernels that the interpreter runs meanwhile take these functions."""
    builder = interpreter.InterpreterBuilder
    replaced: dict[str, Any] = {
        "create_log2": lambda self, x: self.unary_op(x, log2),
        "create_exp2": lambda self, x: self.unary_op(x, exp2),
        "create_fdiv": lambda self, above, below: self.binary_op(above, below, quotient),
    }
    exact = {name: getattr(builder, name) for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(builder, name, function)
        with np.errstate(all="ignore"):
            yield
    finally:
        for name, function in exact.items():
            setattr(builder, name, function)
