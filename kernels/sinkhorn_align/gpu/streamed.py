"""The Triton path for pairs that no on-chip tile holds: similarities in scratch, read in tiles of rows, pass by pass.

Two launches: tiles of S by as many programs as there are tiles, then Sinkhorn and filtering by one program a pair, whose
scratch (at most 1 MB) stays in the second-level cache. The steps and their order are the reference's.
"""

import triton
import triton.language as tl

from sinkhorn_align.gpu.fused import BATCH_SIZES, NO_MASS, NONE, any_of, heavier_link, similarity_tile, spans_of


@triton.jit(do_not_specialize=BATCH_SIZES[:2])
def similarity_to_scratch(
    hidden,
    pair_vectors,
    scratch,
    width,
    first,
    planned,
    MOST_ROWS: tl.constexpr,
    MOST_COLUMNS: tl.constexpr,
    COSINE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of S of one pair into `scratch`, fp32 [pairs of the launch, MOST_ROWS, MOST_COLUMNS]. Grid: pairs × row ×
    column tiles. pair_vectors, first, planned: as in `align_pairs_fused`.
    """
    which = tl.program_id(0)
    _, source_start, rows, target_start, columns = spans_of(pair_vectors, first + which, planned)
    row_M = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column_N = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    real_M, real_N = row_M < rows, column_N < columns
    similarity_MN = similarity_tile(
        hidden, source_start, target_start, real_M, real_N, row_M, column_N, width, COSINE, BLOCK_M, BLOCK_N, BLOCK_K
    )
    at_MN = which.to(tl.int64) * MOST_ROWS * MOST_COLUMNS + row_M[:, None] * MOST_COLUMNS + column_N[None, :]
    tl.store(scratch + at_MN, similarity_MN, mask=real_M[:, None] & real_N[None, :])


@triton.jit
def log_kernel(similarity_MN, real_MN, one_token, temperature, clip_floor, COST_IS_CLIP: tl.constexpr):
    """log K of a tile of S; no mass on padding, and none to choose among where a side has one token."""
    kernel_MN = tl.log(tl.maximum(similarity_MN, clip_floor)) if COST_IS_CLIP else similarity_MN / temperature
    kernel_MN = tl.where(one_token, 0.0, kernel_MN)
    return tl.where(real_MN, kernel_MN, NO_MASS)


@triton.jit(do_not_specialize=BATCH_SIZES)
def align_pairs_streamed(
    pair_vectors,
    similarity,
    row_floats,
    row_integers,
    column_floats,
    column_integers,
    links,
    partner,
    score,
    status,
    tokens,
    first,
    planned,
    temperature,
    log_discount,
    clip_floor,
    largest_similarity,
    COST_IS_CLIP: tl.constexpr,
    ITERATIONS: tl.constexpr,
    ROUNDS: tl.constexpr,
    SMALLEST_FOR_MORE_ROUNDS: tl.constexpr,
    NON_FINITE: tl.constexpr,
    MOST_ROWS: tl.constexpr,
    MOST_COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Align one pair from its similarities; BLOCK_N holds all columns, rows come BLOCK_M at a time.

    similarity: what `similarity_to_scratch` wrote. Scratch of the pair, of any content: row_floats [pairs, MOST_ROWS] (row
    potentials), row_integers [2, pairs, MOST_ROWS] (best column; linked so far), column_floats [pairs, MOST_COLUMNS]
    (column potentials), column_integers [2, pairs, MOST_COLUMNS] (best row; linked so far). The rest as in
    `align_pairs_fused`. A barrier stands between writing scratch and reading it in another layout.
    """
    which = tl.program_id(0)
    pair, source_start, rows, target_start, columns = spans_of(pair_vectors, first + which, planned)
    pairs = tl.num_programs(0)
    similarity += which.to(tl.int64) * MOST_ROWS * MOST_COLUMNS
    row_potential, column_potential = row_floats + which * MOST_ROWS, column_floats + which * MOST_COLUMNS
    best_column, row_linked = row_integers + which * MOST_ROWS, row_integers + (pairs + which) * MOST_ROWS
    best_row, column_linked = column_integers + which * MOST_COLUMNS, column_integers + (pairs + which) * MOST_COLUMNS

    column_N = tl.arange(0, BLOCK_N)
    real_N = column_N < columns
    shorter = tl.minimum(rows, columns)
    one_token = (shorter == 1) & (ITERATIONS > 0)

    # Whether all of S is a number within range; row potentials and links start at none.
    broken_N = tl.zeros((BLOCK_N,), dtype=tl.int32)
    for begin in range(0, rows, BLOCK_M):
        row_M = begin + tl.arange(0, BLOCK_M)
        real_MN = (row_M < rows)[:, None] & real_N[None, :]
        similarity_MN = tl.load(similarity + row_M[:, None] * MOST_COLUMNS + column_N[None, :], mask=real_MN, other=0.0)
        in_range_MN = tl.abs(similarity_MN) * tl.maximum(1.0, 1.0 / temperature) <= largest_similarity
        broken_N = tl.maximum(broken_N, tl.max((~in_range_MN).to(tl.int32), axis=0))
        tl.store(row_potential + row_M, tl.zeros((BLOCK_M,), dtype=tl.float32), mask=row_M < rows)
        tl.store(row_linked + row_M, tl.zeros((BLOCK_M,), dtype=tl.int32), mask=row_M < rows)
    finite = tl.max(broken_N, axis=0) == 0
    tl.store(status + pair, tl.where(finite, 0, NON_FINITE))
    if not finite:
        return
    tl.store(column_linked + column_N, tl.zeros((BLOCK_N,), dtype=tl.int32), mask=real_N)
    tl.debug_barrier()

    # Sinkhorn: a pass takes the row step of the iteration before (clip) or of its own (exp), then its column step, whose
    # sums over rows are carried along with their largest term so far.
    potential_N = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for iteration in tl.static_range(ITERATIONS):
        largest_N = tl.full((BLOCK_N,), NO_MASS, dtype=tl.float32)
        total_N = tl.zeros((BLOCK_N,), dtype=tl.float32)
        for begin in range(0, rows, BLOCK_M):
            row_M = begin + tl.arange(0, BLOCK_M)
            real_M = row_M < rows
            real_MN = real_M[:, None] & real_N[None, :]
            at_MN = row_M[:, None] * MOST_COLUMNS + column_N[None, :]
            similarity_MN = tl.load(similarity + at_MN, mask=real_MN, other=0.0)
            kernel_MN = log_kernel(similarity_MN, real_MN, one_token, temperature, clip_floor, COST_IS_CLIP)
            if iteration > 0 or not COST_IS_CLIP:
                potential_M = row_step(kernel_MN, potential_N, real_M)
                tl.store(row_potential + row_M, potential_M, mask=real_M)
                kernel_MN += potential_M[:, None]
            larger_N = tl.maximum(largest_N, tl.max(kernel_MN, axis=0))
            total_N = total_N * tl.exp(largest_N - larger_N) + tl.sum(tl.exp(kernel_MN - larger_N[None, :]), axis=0)
            largest_N = larger_N
        potential_N = tl.where(real_N, -(largest_N + tl.log(total_N)), 0.0)
        tl.debug_barrier()
    tl.store(column_potential + column_N, potential_N, mask=real_N)

    # Rounds of mutual argmax.
    open_N = real_N
    partner_N = tl.full((BLOCK_N,), NONE, dtype=tl.int32)
    mass_N = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
    open_rows = rows
    for round_ in tl.static_range(ROUNDS):
        adds = (open_rows > 0) & any_of(open_N)
        if round_ > 0:
            adds = adds & (shorter >= SMALLEST_FOR_MORE_ROUNDS)
        best_value_N = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
        best_row_N = tl.zeros((BLOCK_N,), dtype=tl.int32)
        for begin in range(0, rows, BLOCK_M):
            row_M = begin + tl.arange(0, BLOCK_M)
            real_M = row_M < rows
            real_MN = real_M[:, None] & real_N[None, :]
            at_MN = row_M[:, None] * MOST_COLUMNS + column_N[None, :]
            similarity_MN = tl.load(similarity + at_MN, mask=real_MN, other=0.0)
            plan_MN = log_kernel(similarity_MN, real_MN, one_token, temperature, clip_floor, COST_IS_CLIP)
            if round_ == 0 and COST_IS_CLIP and ITERATIONS > 0:
                potential_M = row_step(plan_MN, potential_N, real_M)  # the last half step of the clip cost
                tl.store(row_potential + row_M, potential_M, mask=real_M)
            else:
                potential_M = tl.load(row_potential + row_M, mask=real_M, other=0.0)
            plan_MN = plan_MN + potential_M[:, None] + potential_N[None, :]
            if round_ > 0:
                open_M = (tl.load(row_linked + row_M, mask=real_M, other=1) == 0) & real_M
                plan_MN = tl.where(open_M[:, None] ^ open_N[None, :], plan_MN + log_discount, plan_MN)
                plan_MN = tl.where((open_M[:, None] | open_N[None, :]) & real_MN, plan_MN, NO_MASS)
            tl.store(best_column + row_M, tl.argmax(plan_MN, axis=1, tie_break_left=True), mask=real_M)
            value_N = tl.max(plan_MN, axis=0)
            better_N = value_N > best_value_N  # an equal value of an earlier row stays
            best_row_N = tl.where(better_N, begin + tl.argmax(plan_MN, axis=0, tie_break_left=True), best_row_N)
            best_value_N = tl.where(better_N, value_N, best_value_N)
        best_row_N = tl.where(best_row_N < rows, best_row_N, 0)
        tl.store(best_row + column_N, best_row_N, mask=real_N)
        tl.debug_barrier()

        # The columns' view of the links: does the best row lead back?
        leads_back_N = tl.load(best_column + best_row_N, mask=real_N, other=NONE) == column_N
        row_open_N = tl.load(row_linked + best_row_N, mask=real_N, other=1) == 0
        found_N = tl.where(leads_back_N & real_N & adds & (open_N | row_open_N), best_row_N, NONE)
        similarity_N = tl.load(similarity + best_row_N * MOST_COLUMNS + column_N, mask=real_N, other=0.0)
        kernel_N = log_kernel(similarity_N, real_N, one_token, temperature, clip_floor, COST_IS_CLIP)
        found_mass_N = kernel_N + tl.load(row_potential + best_row_N, mask=real_N, other=0.0) + potential_N
        partner_N, mass_N = heavier_link(found_N, found_mass_N, partner_N, mass_N)
        open_N = open_N & (found_N < 0)
        tl.debug_barrier()

        # The rows' view, from what the columns were before this round.
        open_rows = 0
        for begin in range(0, rows, BLOCK_M):
            row_M = begin + tl.arange(0, BLOCK_M)
            real_M = row_M < rows
            best_M = tl.load(best_column + row_M, mask=real_M, other=0)
            best_M = tl.where(best_M < columns, best_M, 0)
            open_M = (tl.load(row_linked + row_M, mask=real_M, other=1) == 0) & real_M
            leads_back_M = tl.load(best_row + best_M, mask=real_M, other=NONE) == row_M
            column_open_M = tl.load(column_linked + best_M, mask=real_M, other=1) == 0
            found_M = tl.where(leads_back_M & real_M & adds & (open_M | column_open_M), best_M, NONE)
            similarity_M = tl.load(similarity + row_M * MOST_COLUMNS + best_M, mask=real_M, other=0.0)
            kernel_M = log_kernel(similarity_M, real_M, one_token, temperature, clip_floor, COST_IS_CLIP)
            column_potential_M = tl.load(column_potential + best_M, mask=real_M, other=0.0)
            found_mass_M = kernel_M + tl.load(row_potential + row_M, mask=real_M, other=0.0) + column_potential_M
            token_M = source_start + row_M
            partner_M = tl.load(partner + token_M, mask=real_M, other=NONE)
            partner_M = tl.where(partner_M >= 0, partner_M - target_start, NONE)
            mass_M = tl.load(score + token_M, mask=real_M, other=0.0)
            partner_M, mass_M = heavier_link(found_M, found_mass_M, partner_M, mass_M)
            tl.store(partner + token_M, tl.where(partner_M >= 0, target_start + partner_M, NONE), mask=real_M)
            tl.store(score + token_M, mass_M, mask=real_M)
            at_M = token_M.to(tl.int64) + round_ * tokens.to(tl.int64)
            tl.store(links + at_M, tl.where(found_M >= 0, target_start + found_M, NONE), mask=real_M)
            open_M = open_M & (found_M < 0)
            tl.store(row_linked + row_M, tl.where(open_M, 0, 1), mask=real_M)
            open_rows += tl.sum(open_M.to(tl.int32), axis=0)
        tl.debug_barrier()
        tl.store(column_linked + column_N, tl.where(open_N, 0, 1), mask=real_N)
        tl.debug_barrier()

    tl.store(partner + target_start + column_N, tl.where(partner_N >= 0, source_start + partner_N, NONE), mask=real_N)
    tl.store(score + target_start + column_N, mass_N, mask=real_N)


@triton.jit
def row_step(kernel_MN, column_potential_N, real_M):
    """The potentials that give the rows of a tile a mass of one."""
    value_MN = kernel_MN + column_potential_N[None, :]
    largest_M = tl.max(value_MN, axis=1)
    total_M = tl.sum(tl.exp(value_MN - largest_M[:, None]), axis=1)
    return tl.where(real_M, -(largest_M + tl.log(total_M)), 0.0)
