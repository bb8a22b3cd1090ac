"""Triton kernels over rows of logits: one pass for losses, one for gradients; `cross_entropy` launches them.

Neither uses atomics, so that sums are the same from run to run. Knows pointers and strides.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False

import triton
import triton.language as tl


@triton.jit
def row_losses(
    logits, stride, bias, target, words, log_sum, target_logit, mean, hit, MEAN: tl.constexpr, BLOCK: tl.constexpr
):
    """A program a row. `stride` is also how far a row is read: a multiple of 16, or its loads would not be wide ones."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    wanted = tl.load(target + row)
    aim = tl.load(logits + wanted).to(tl.float32) + tl.load(bias + wanted).to(tl.float32)
    highest = float("-inf")
    total = 0.0
    every = 0.0
    better = tl.zeros([BLOCK], tl.int32)
    for first in range(0, stride, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(logits + at, at < stride, other=0).to(tl.float32)
        value += tl.load(bias + at, at < stride, other=0).to(tl.float32)
        value = tl.where(at < words, value, float("-inf"))  # [BLOCK]; beyond the words may lie anything
        better += ((value > aim) | ((value == aim) & (at < wanted))).to(tl.int32)
        above = tl.maximum(highest, tl.max(value, axis=0))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(value - above), axis=0)
        highest = above
        if MEAN:
            every += tl.sum(tl.where(at < words, value, 0.0), axis=0)
    tl.store(log_sum + row, highest + tl.log(total))
    tl.store(target_logit + row, aim)
    tl.store(mean + row, every / words)
    tl.store(hit + row, ((tl.sum(better, axis=0) == 0) & (aim == highest)).to(tl.int32))


@triton.jit
def logit_gradients(
    logits,
    stride,
    bias,
    target,
    log_sum,
    gradient,
    column_sum,
    rows,
    smoothing,
    words,
    factor,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program a block of columns, over all rows: so it has their sum at hand, and need not read gradients again."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < stride
    shift = tl.load(bias + column, inside, other=0).to(tl.float32)
    sums = tl.zeros([BLOCK], tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        real = row < rows
        at = row.to(tl.int64)[:, None] * stride + column[None, :]
        here = real[:, None] & inside[None, :]
        value = tl.load(logits + at, here, other=0).to(tl.float32) + shift[None, :]  # [ROWS, BLOCK]
        share = tl.exp(value - tl.load(log_sum + row, real, other=float("inf"))[:, None])
        hit = tl.load(target + row, real, other=-1)[:, None] == column[None, :]
        change = share - smoothing / words - tl.where(hit, 1 - smoothing, 0.0)
        change = tl.where(real[:, None], change, 0.0)
        sums += tl.sum(change, axis=0)
        tl.store(gradient + at, (change * factor).to(gradient.dtype.element_ty), here)
    before = tl.load(column_sum + column, inside, other=0)
    tl.store(column_sum + column, before + sums, inside)
