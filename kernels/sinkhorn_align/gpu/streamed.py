"""The Triton path for pairs that no on-chip tile holds: similarities in scratch, read in tiles of rows, pass by pass.

One launch: as many programs as a pair has tiles of S compute one each, and the last of them to be done goes on with Sinkhorn
and filtering, so that nobody waits. Its scratch (at most 1 MB) stays in the second-level cache. The steps and their order are
the reference's, in logarithms of base 2.
"""

import triton
import triton.language as tl

from sinkhorn_align.gpu.fused import BATCH_SIZES, LOG2_E, Answer, any_of, largest_magnitude, sides_of
from sinkhorn_align.gpu.similarity import similarity_tile
from sinkhorn_align.gpu.streamed_passes import (
    Scratch,
    Terms,
    best_cells,
    column_potentials,
    link_columns,
    link_rows,
)


@triton.jit
def store_tile(
    hidden, scratch, arrivals, sides, width, COSINE: tl.constexpr, TILE: tl.constexpr, BLOCK_K: tl.constexpr
):
    """This program's tile of S into scratch. Returns whether it was the pair's last, and of the last the largest |S|.

    arrivals: int32 [2] of zeros: how many tiles have been stored, and the bits of the largest |S| in them.
    """
    begin_M, begin_N = tl.program_id(1) * TILE, tl.program_id(2) * TILE
    row_M, column_N = begin_M + tl.arange(0, TILE), begin_N + tl.arange(0, TILE)
    real_M, real_N = row_M < sides.rows, column_N < sides.columns
    source_start, target_start = sides.source_start + begin_M, sides.target_start + begin_N
    similarity_MN = similarity_tile(
        hidden, source_start, target_start, real_M, real_N, width, COSINE, TILE, TILE, BLOCK_K
    )
    at_MN = row_M[:, None] * scratch.most_columns + column_N[None, :]
    tl.store(scratch.similarity + at_MN, similarity_MN, mask=real_M[:, None] & real_N[None, :])
    tl.atomic_max(arrivals + 1, largest_magnitude(similarity_MN).to(tl.int32, bitcast=True))
    tl.debug_barrier()  # the whole tile is written before it is counted
    last = tl.atomic_add(arrivals, 1) == tl.cdiv(sides.rows, TILE) * tl.cdiv(sides.columns, TILE) - 1
    tl.debug_barrier()
    return last, tl.load(arrivals + 1).to(tl.float32, bitcast=True)


@triton.jit
def terms_of(most, sides, temperature, clip_floor, iterations, log_discount):
    """What a pair with this largest |S| is aligned by."""
    # A side of one token takes up the kernel whole: every cell has the same mass, see the reference.
    uniform = (tl.minimum(sides.rows, sides.columns) == 1) & (iterations > 0)
    floor = tl.where(uniform, tl.maximum(most, clip_floor), clip_floor)
    return Terms(floor, tl.where(uniform, 0.0, LOG2_E / temperature), iterations, log_discount)


@triton.jit
def align_stored(
    scratch,
    answer,
    sides,
    terms,
    COST_IS_CLIP: tl.constexpr,
    ROUNDS: tl.constexpr,
    SMALLEST_FOR_MORE_ROUNDS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sinkhorn and filtering of one pair from its similarities; BLOCK_N holds all columns, rows come BLOCK_M at a time."""
    column_N = tl.arange(0, BLOCK_N)
    real_N = column_N < sides.columns
    for begin in range(0, sides.rows, BLOCK_N):
        row_L = begin + tl.arange(0, BLOCK_N)
        tl.store(scratch.row_floats + row_L, tl.zeros((BLOCK_N,), dtype=tl.float32), mask=row_L < sides.rows)
        tl.store(scratch.row_integers + row_L, tl.zeros((BLOCK_N,), dtype=tl.int32), mask=row_L < sides.rows)
    tl.store(scratch.column_integers + column_N, tl.zeros((BLOCK_N,), dtype=tl.int32), mask=real_N)
    tl.debug_barrier()
    potential_N = column_potentials(scratch, sides, terms, COST_IS_CLIP, BLOCK_M, BLOCK_N)
    open_N, open_rows = real_N, sides.rows
    for round_ in tl.static_range(ROUNDS):
        adds = (open_rows > 0) & any_of(open_N)
        if round_ > 0:
            adds = adds & (tl.minimum(sides.rows, sides.columns) >= SMALLEST_FOR_MORE_ROUNDS)
        row_step_left = (terms.iterations > 0) & COST_IS_CLIP & (round_ == 0)
        value_N, best_row_N = best_cells(
            scratch, sides, terms, potential_N, open_N, row_step_left, COST_IS_CLIP, BLOCK_M, BLOCK_N
        )
        tl.store(scratch.column_integers + scratch.most_columns + column_N, best_row_N, mask=real_N)
        tl.debug_barrier()
        open_N = link_columns(scratch, answer, sides, terms, value_N, best_row_N, open_N, adds)
        tl.debug_barrier()
        open_rows = link_rows(scratch, answer, sides, terms, round_, adds, BLOCK_N)
        tl.debug_barrier()
        tl.store(scratch.column_integers + column_N, tl.where(open_N, 0, 1), mask=real_N)
        tl.debug_barrier()


@triton.jit(do_not_specialize=(*BATCH_SIZES, "most_rows", "most_columns", "iterations"))
def align_pairs_streamed(
    hidden,
    pair_vectors,
    similarity,
    row_floats,
    row_integers,
    column_integers,
    arrivals,
    links,
    partner,
    score,
    status,
    width,
    tokens,
    first,
    planned,
    most_rows,
    most_columns,
    temperature,
    log_discount,
    clip_floor,
    largest_similarity,
    iterations,
    COST_IS_CLIP: tl.constexpr,
    COSINE: tl.constexpr,
    ROUNDS: tl.constexpr,
    SMALLEST_FOR_MORE_ROUNDS: tl.constexpr,
    NON_FINITE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    LONGEST: tl.constexpr,
):
    """Align one pair by all programs with its index on the grid's first axis; the others are row and column tiles.

    Scratch of each pair of the launch: similarity fp32 [most_rows, most_columns], row_floats and row_integers
    [2, most_rows], column_integers [2, most_columns], arrivals int32 [2] of zeros. LONGEST columns at most; half as many, where
    they are enough, are held beside twice the rows. The rest as in `align_pairs_fused`.
    """
    which = tl.program_id(0)
    pair, sides = sides_of(pair_vectors, first + which, planned)
    similarity += which.to(tl.int64) * most_rows * most_columns
    row_at, column_at = 2 * which * most_rows, 2 * which * most_columns
    scratch = Scratch(
        similarity, row_floats + row_at, row_integers + row_at, column_integers + column_at, most_rows, most_columns
    )
    if (tl.program_id(1) * TILE < sides.rows) & (tl.program_id(2) * TILE < sides.columns):
        last, most = store_tile(hidden, scratch, arrivals + 2 * which, sides, width, COSINE, TILE, BLOCK_K)
        if last:
            finite = most * tl.maximum(1.0, 1.0 / temperature) <= largest_similarity  # not so for NaN
            tl.store(status + pair, tl.where(finite, 0, NON_FINITE))
            terms = terms_of(most, sides, temperature, clip_floor, iterations, log_discount)
            answer = Answer(links, partner, score, tokens)
            for part in tl.static_range(2):
                if finite & ((2 * sides.columns <= LONGEST) == (part == 1)):
                    WIDTH: tl.constexpr = LONGEST // (part + 1)
                    HEIGHT: tl.constexpr = BLOCK_CELLS // WIDTH
                    align_stored(
                        scratch, answer, sides, terms, COST_IS_CLIP, ROUNDS, SMALLEST_FOR_MORE_ROUNDS, HEIGHT, WIDTH
                    )
