"""A Triton kernel: the sum of two matrices, and the norm of its rows; `residual_norm` launches it. Knows pointers."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

import triton
import triton.language as tl


@triton.jit
def add_and_norm(left, right, weight, bias, summed, normed, mean, rstd, width, eps, BLOCK: tl.constexpr):
    """A program a row of `width` numbers, at most BLOCK."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    value = tl.load(left + at, inside, other=0).to(tl.float32) + tl.load(right + at, inside, other=0).to(tl.float32)
    # As it is kept, so that the backward sees what was normalised.
    kept = value.to(summed.dtype.element_ty)
    tl.store(summed + at, kept, inside)
    value = kept.to(tl.float32)
    middle = tl.sum(value, axis=0) / width
    apart = tl.where(inside, value - middle, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(apart * apart, axis=0) / width + eps)
    factor = tl.load(weight + column, inside, other=0).to(tl.float32)
    shift = tl.load(bias + column, inside, other=0).to(tl.float32)
    tl.store(normed + at, (apart * inverse * factor + shift).to(normed.dtype.element_ty), inside)
    tl.store(mean + row, middle)
    tl.store(rstd + row, inverse)
