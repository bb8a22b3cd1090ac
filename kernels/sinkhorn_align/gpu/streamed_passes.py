"""Passes over the similarities of a pair in scratch: Sinkhorn's steps, the best cells, and the links of a round.

`streamed` puts them in order. Everything is in logarithms of base 2.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton
import triton.language as tl

from sinkhorn_align.gpu.arithmetic import exp2, log2
from sinkhorn_align.gpu.fused import LN2, NO_MASS, NONE

NOTHING = tl.constexpr(-3e38)
"""log2 K of padding: no mass beside any real cell, and still a number in a difference."""


@triton.jit
def log_kernel_tile(similarity, row_M, column_N, rows, columns, most_columns, floor, scale, COST_IS_CLIP: tl.constexpr):
    """log2 K of some rows and all columns; no mass on padding."""
    real_MN = (row_M < rows)[:, None] & (column_N < columns)[None, :]
    similarity_MN = tl.load(similarity + row_M[:, None] * most_columns + column_N[None, :], mask=real_MN, other=0.0)
    log_kernel_MN = log2(tl.maximum(similarity_MN, floor)) if COST_IS_CLIP else similarity_MN * scale
    return tl.where(real_MN, log_kernel_MN, NOTHING)


@triton.jit
def row_step(log_kernel_MN, column_potential_N, real_M):
    """The potentials that give the rows of a tile a mass of one."""
    value_MN = log_kernel_MN + column_potential_N[None, :]
    largest_M = tl.max(value_MN, axis=1)
    total_M = tl.sum(exp2(value_MN - largest_M[:, None]), axis=1)
    return tl.where(real_M, -(largest_M + log2(total_M)), 0.0)


@triton.jit
def column_potentials(
    similarity,
    row_potential,
    rows,
    columns,
    most_columns,
    floor,
    scale,
    iterations,
    COST_IS_CLIP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sinkhorn, but for the last row step of the clip cost. Row potentials go to scratch.

    A pass takes the row step of the iteration before (clip) or of its own (exp), then its column step, whose sums over rows are
    carried along with their largest term so far.
    """
    column_N = tl.arange(0, BLOCK_N)
    potential_N = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for iteration in range(iterations):
        largest_N = tl.full((BLOCK_N,), NOTHING, dtype=tl.float32)
        total_N = tl.zeros((BLOCK_N,), dtype=tl.float32)
        for begin in range(0, rows, BLOCK_M):
            row_M = begin + tl.arange(0, BLOCK_M)
            value_MN = log_kernel_tile(
                similarity, row_M, column_N, rows, columns, most_columns, floor, scale, COST_IS_CLIP
            )
            if (iteration > 0) | (not COST_IS_CLIP):
                potential_M = row_step(value_MN, potential_N, row_M < rows)
                tl.store(row_potential + row_M, potential_M, mask=row_M < rows)
                value_MN += potential_M[:, None]
            larger_N = tl.maximum(largest_N, tl.max(value_MN, axis=0))
            total_N = total_N * exp2(largest_N - larger_N) + tl.sum(exp2(value_MN - larger_N[None, :]), axis=0)
            largest_N = larger_N
        potential_N = tl.where(column_N < columns, -(largest_N + log2(total_N)), 0.0)
        tl.debug_barrier()
    return potential_N


@triton.jit
def best_cells(
    similarity,
    row_floats,
    row_integers,
    potential_N,
    open_N,
    rows,
    columns,
    most_rows,
    most_columns,
    floor,
    scale,
    log_discount,
    row_step_left,
    COST_IS_CLIP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One pass over log2 P: the first largest cell of every row, into scratch, and of every column, returned with its value.

    row_floats: potentials, then the largest values of rows; row_integers: whether a row has a link, then its best column.
    """
    column_N = tl.arange(0, BLOCK_N)
    value_N = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
    best_row_N = tl.zeros((BLOCK_N,), dtype=tl.int32)
    for begin in range(0, rows, BLOCK_M):
        row_M = begin + tl.arange(0, BLOCK_M)
        real_M = row_M < rows
        value_MN = log_kernel_tile(similarity, row_M, column_N, rows, columns, most_columns, floor, scale, COST_IS_CLIP)
        if row_step_left:
            tl.store(row_floats + row_M, row_step(value_MN, potential_N, real_M), mask=real_M)
            tl.debug_barrier()
        value_MN += tl.load(row_floats + row_M, mask=real_M, other=0.0)[:, None] + potential_N[None, :]
        open_M = tl.load(row_integers + row_M, mask=real_M, other=0) == 0
        less_MN = tl.where(
            open_M[:, None],
            tl.where(open_N, 0.0, log_discount)[None, :],
            tl.where(open_N, log_discount, NO_MASS)[None, :],
        )
        value_MN = tl.where(real_M[:, None] & (column_N < columns)[None, :], value_MN + less_MN, NOTHING)
        tl.store(row_floats + most_rows + row_M, tl.max(value_MN, axis=1), mask=real_M)
        tl.store(row_integers + most_rows + row_M, tl.argmax(value_MN, axis=1, tie_break_left=True), mask=real_M)
        larger_N = tl.max(value_MN, axis=0)
        better_N = larger_N > value_N  # an equal value of an earlier row stays
        best_row_N = tl.where(better_N, begin + tl.argmax(value_MN, axis=0, tie_break_left=True), best_row_N)
        value_N = tl.where(better_N, larger_N, value_N)
    return value_N, best_row_N


@triton.jit
def link_columns(
    row_integers,
    partner,
    score,
    source_start,
    target_start,
    most_rows,
    value_N,
    best_row_N,
    open_N,
    real_N,
    adds,
    log_discount,
):
    """The columns' view of the links: does the best row lead back? Returns which are open still."""
    column_N = tl.arange(0, open_N.shape[0])
    found_N = (tl.load(row_integers + most_rows + best_row_N, mask=real_N, other=NONE) == column_N) & real_N & adds
    row_linked_N = tl.load(row_integers + best_row_N, mask=real_N, other=0) > 0
    mass_N = value_N - tl.where(row_linked_N, log_discount, 0.0)
    new_N = found_N & open_N
    tl.store(partner + target_start + column_N, source_start + best_row_N, mask=new_N)
    tl.store(score + target_start + column_N, mass_N * LN2, mask=new_N)
    return open_N & ~found_N


@triton.jit
def link_rows(
    row_floats,
    row_integers,
    column_integers,
    links,
    partner,
    score,
    source_start,
    target_start,
    rows,
    most_rows,
    most_columns,
    adds,
    log_discount,
    BLOCK_L: tl.constexpr,
):
    """The rows' view of the links, from what the columns were before this round. Returns how many rows are open still.

    column_integers: whether a column has a link, then its best row.
    """
    open_rows = 0
    for begin in range(0, rows, BLOCK_L):
        row_L = begin + tl.arange(0, BLOCK_L)
        real_L = row_L < rows
        best_L = tl.load(row_integers + most_rows + row_L, mask=real_L, other=0)
        found_L = (tl.load(column_integers + most_columns + best_L, mask=real_L, other=NONE) == row_L) & real_L & adds
        tl.store(links + source_start + row_L, target_start + best_L, mask=found_L)
        open_L = (tl.load(row_integers + row_L, mask=real_L, other=1) == 0) & real_L
        column_linked_L = tl.load(column_integers + best_L, mask=real_L, other=0) > 0
        mass_L = tl.load(row_floats + most_rows + row_L, mask=real_L, other=0.0)
        mass_L -= tl.where(column_linked_L, log_discount, 0.0)
        tl.store(partner + source_start + row_L, target_start + best_L, mask=found_L & open_L)
        tl.store(score + source_start + row_L, mass_L * LN2, mask=found_L & open_L)
        open_L = open_L & ~found_L
        tl.store(row_integers + row_L, tl.where(open_L, 0, 1), mask=real_L)
        open_rows += tl.sum(open_L.to(tl.int32), axis=0)
    return open_rows
