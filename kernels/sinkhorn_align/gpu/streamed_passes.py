"""Passes over the similarities of a pair in scratch: Sinkhorn's steps, the best cells, and the links of a round.

`streamed` puts them in order. Everything is in logarithms of base 2.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
from typing import NamedTuple

import triton
import triton.language as tl

from sinkhorn_align.gpu.arithmetic import exp2, log2
from sinkhorn_align.gpu.fused import LN2, NO_MASS, NONE

NOTHING = tl.constexpr(-3e38)
"""log2 K of padding: no mass beside any real cell, and still a number in a difference."""


class Scratch(NamedTuple):
    """What a pair's programs keep between passes.

    similarity: fp32 [most_rows, most_columns]. row_floats: [2, most_rows], potentials, then the largest values of rows.
    row_integers: [2, most_rows], whether a row has a link, then its best column; column_integers the same of columns.
    """

    similarity: tl.tensor
    row_floats: tl.tensor
    row_integers: tl.tensor
    column_integers: tl.tensor
    most_rows: tl.tensor
    most_columns: tl.tensor


class Terms(NamedTuple):
    """What a pair is aligned by: what similarities become log2 K with, and the settings of Sinkhorn and filtering."""

    floor: tl.tensor
    scale: tl.tensor
    iterations: tl.tensor
    log_discount: tl.tensor


@triton.jit
def log_kernel_tile(scratch, sides, terms, row_M, column_N, COST_IS_CLIP: tl.constexpr):
    """log2 K of some rows and all columns; no mass on padding."""
    real_MN = (row_M < sides.rows)[:, None] & (column_N < sides.columns)[None, :]
    at_MN = row_M[:, None] * scratch.most_columns + column_N[None, :]
    similarity_MN = tl.load(scratch.similarity + at_MN, mask=real_MN, other=0.0)
    log_kernel_MN = log2(tl.maximum(similarity_MN, terms.floor)) if COST_IS_CLIP else similarity_MN * terms.scale
    return tl.where(real_MN, log_kernel_MN, NOTHING)


@triton.jit
def row_step(log_kernel_MN, column_potential_N, real_M):
    """The potentials that give the rows of a tile a mass of one."""
    value_MN = log_kernel_MN + column_potential_N[None, :]
    largest_M = tl.max(value_MN, axis=1)
    total_M = tl.sum(exp2(value_MN - largest_M[:, None]), axis=1)
    return tl.where(real_M, -(largest_M + log2(total_M)), 0.0)


@triton.jit
def column_potentials(scratch, sides, terms, COST_IS_CLIP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Sinkhorn, but for the last row step of the clip cost. Row potentials go to scratch.

    A pass takes the row step of the iteration before (clip) or of its own (exp), then its column step, whose sums over rows are
    carried along with their largest term so far.
    """
    column_N = tl.arange(0, BLOCK_N)
    potential_N = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for iteration in range(terms.iterations):
        largest_N = tl.full((BLOCK_N,), NOTHING, dtype=tl.float32)
        total_N = tl.zeros((BLOCK_N,), dtype=tl.float32)
        for begin in range(0, sides.rows, BLOCK_M):
            row_M = begin + tl.arange(0, BLOCK_M)
            value_MN = log_kernel_tile(scratch, sides, terms, row_M, column_N, COST_IS_CLIP)
            if (iteration > 0) | (not COST_IS_CLIP):
                potential_M = row_step(value_MN, potential_N, row_M < sides.rows)
                tl.store(scratch.row_floats + row_M, potential_M, mask=row_M < sides.rows)
                value_MN += potential_M[:, None]
            larger_N = tl.maximum(largest_N, tl.max(value_MN, axis=0))
            total_N = total_N * exp2(largest_N - larger_N) + tl.sum(exp2(value_MN - larger_N[None, :]), axis=0)
            largest_N = larger_N
        potential_N = tl.where(column_N < sides.columns, -(largest_N + log2(total_N)), 0.0)
        tl.debug_barrier()
    return potential_N


@triton.jit
def best_cells(
    scratch,
    sides,
    terms,
    potential_N,
    open_N,
    row_step_left,
    COST_IS_CLIP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One pass over log2 P: the first largest cell of every row, into scratch, and of every column, returned with its value."""
    column_N = tl.arange(0, BLOCK_N)
    value_N = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
    best_row_N = tl.zeros((BLOCK_N,), dtype=tl.int32)
    best_column, largest = scratch.row_integers + scratch.most_rows, scratch.row_floats + scratch.most_rows
    for begin in range(0, sides.rows, BLOCK_M):
        row_M = begin + tl.arange(0, BLOCK_M)
        real_M = row_M < sides.rows
        value_MN = log_kernel_tile(scratch, sides, terms, row_M, column_N, COST_IS_CLIP)
        if row_step_left:
            tl.store(scratch.row_floats + row_M, row_step(value_MN, potential_N, real_M), mask=real_M)
            tl.debug_barrier()
        value_MN += tl.load(scratch.row_floats + row_M, mask=real_M, other=0.0)[:, None] + potential_N[None, :]
        open_M = tl.load(scratch.row_integers + row_M, mask=real_M, other=0) == 0
        less_MN = tl.where(
            open_M[:, None],
            tl.where(open_N, 0.0, terms.log_discount)[None, :],
            tl.where(open_N, terms.log_discount, NO_MASS)[None, :],
        )
        value_MN = tl.where(real_M[:, None] & (column_N < sides.columns)[None, :], value_MN + less_MN, NOTHING)
        tl.store(largest + row_M, tl.max(value_MN, axis=1), mask=real_M)
        tl.store(best_column + row_M, tl.argmax(value_MN, axis=1, tie_break_left=True), mask=real_M)
        larger_N = tl.max(value_MN, axis=0)
        better_N = larger_N > value_N  # an equal value of an earlier row stays
        best_row_N = tl.where(better_N, begin + tl.argmax(value_MN, axis=0, tie_break_left=True), best_row_N)
        value_N = tl.where(better_N, larger_N, value_N)
    return value_N, best_row_N


@triton.jit
def link_columns(scratch, answer, sides, terms, value_N, best_row_N, open_N, adds):
    """The columns' view of the links: does the best row lead back? Returns which are open still."""
    column_N = tl.arange(0, open_N.shape[0])
    real_N = column_N < sides.columns
    best_column = scratch.row_integers + scratch.most_rows
    found_N = (tl.load(best_column + best_row_N, mask=real_N, other=NONE) == column_N) & real_N & adds
    row_linked_N = tl.load(scratch.row_integers + best_row_N, mask=real_N, other=0) > 0
    mass_N = value_N - tl.where(row_linked_N, terms.log_discount, 0.0)
    new_N, target_N = found_N & open_N, sides.target_start + column_N
    tl.store(answer.partner + target_N, sides.source_start + best_row_N, mask=new_N)
    tl.store(answer.score + target_N, mass_N * LN2, mask=new_N)
    return open_N & ~found_N


@triton.jit
def link_rows(scratch, answer, sides, terms, round_, adds, BLOCK_L: tl.constexpr):
    """The rows' view of the links, from what the columns were before this round. Returns how many rows are open still."""
    open_rows = 0
    links = answer.links + round_ * answer.tokens.to(tl.int64)
    for begin in range(0, sides.rows, BLOCK_L):
        row_L = begin + tl.arange(0, BLOCK_L)
        real_L, source_L = row_L < sides.rows, sides.source_start + row_L
        best_L = tl.load(scratch.row_integers + scratch.most_rows + row_L, mask=real_L, other=0)
        best_row = scratch.column_integers + scratch.most_columns
        found_L = (tl.load(best_row + best_L, mask=real_L, other=NONE) == row_L) & real_L & adds
        tl.store(links + source_L, sides.target_start + best_L, mask=found_L)
        open_L = (tl.load(scratch.row_integers + row_L, mask=real_L, other=1) == 0) & real_L
        column_linked_L = tl.load(scratch.column_integers + best_L, mask=real_L, other=0) > 0
        mass_L = tl.load(scratch.row_floats + scratch.most_rows + row_L, mask=real_L, other=0.0)
        mass_L -= tl.where(column_linked_L, terms.log_discount, 0.0)
        tl.store(answer.partner + source_L, sides.target_start + best_L, mask=found_L & open_L)
        tl.store(answer.score + source_L, mass_L * LN2, mask=found_L & open_L)
        open_L = open_L & ~found_L
        tl.store(scratch.row_integers + row_L, tl.where(open_L, 0, 1), mask=real_L)
        open_rows += tl.sum(open_L.to(tl.int32), axis=0)
    return open_rows
