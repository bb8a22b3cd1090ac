"""The fused Triton path: similarity, Sinkhorn and filtering of a pair in one program, with the plan held on chip.

It takes pairs whose sides fit one tile; `streamed` takes longer ones. The steps and their order are the reference's.
Padding has a kernel of -3e38, which is no mass beside any real cell (at most 1e38 in magnitude, see `settings`) and,
unlike -inf, stays a number in differences.
"""

import triton
import triton.language as tl

NO_MASS = tl.constexpr(-3e38)
NONE = tl.constexpr(-1)
BATCH_SIZES = ("first", "planned", "tokens")
"""Arguments that change from batch to batch: a kernel compiled for their values would be compiled again and again."""


@triton.jit
def power_of_two_scale(largest_L):
    """1 over the power of two below each magnitude: multiplying by it is exact. Zero rows keep 1."""
    exponent_L = tl.floor(tl.log2(tl.maximum(largest_L, 1e-37)))
    exponent_L = tl.minimum(tl.maximum(exponent_L, -120.0), 120.0)
    return tl.where(largest_L > 0, tl.exp2(-exponent_L), 1.0)


@triton.jit
def row_scale(hidden, start, real_L, position_L, width, BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr):
    """A power of two for each row of a side that brings its largest entry to about 1."""
    largest_L = tl.zeros((BLOCK_L,), dtype=tl.float32)
    for k in range(0, width, BLOCK_K):
        column_K = k + tl.arange(0, BLOCK_K)
        at_LK = (start + position_L)[:, None].to(tl.int64) * width + column_K[None, :]
        tile_LK = tl.load(hidden + at_LK, mask=real_L[:, None] & (column_K < width)[None, :], other=0.0)
        largest_L = tl.maximum(largest_L, tl.max(tl.abs(tile_LK.to(tl.float32)), axis=1))
    return power_of_two_scale(largest_L)


@triton.jit
def similarity_tile(
    hidden,
    source_start,
    target_start,
    source_real_M,
    target_real_N,
    position_M,
    position_N,
    width,
    COSINE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """S, fp32 [BLOCK_M, BLOCK_N]: dot products or cosines of the tokens at these positions of the two sides."""
    similarity_MN = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if COSINE:
        scale_M = row_scale(hidden, source_start, source_real_M, position_M, width, BLOCK_M, BLOCK_K)
        scale_N = row_scale(hidden, target_start, target_real_N, position_N, width, BLOCK_N, BLOCK_K)
        square_M = tl.zeros((BLOCK_M,), dtype=tl.float32)
        square_N = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for k in range(0, width, BLOCK_K):
        column_K = k + tl.arange(0, BLOCK_K)
        in_width_K = column_K < width
        # int64 before the product: a batch may hold more than 2^31 numbers
        at_MK = (source_start + position_M)[:, None].to(tl.int64) * width + column_K[None, :]
        at_NK = (target_start + position_N)[:, None].to(tl.int64) * width + column_K[None, :]
        source_MK = tl.load(hidden + at_MK, mask=source_real_M[:, None] & in_width_K[None, :], other=0.0)
        target_NK = tl.load(hidden + at_NK, mask=target_real_N[:, None] & in_width_K[None, :], other=0.0)
        if COSINE:
            scaled_MK = source_MK.to(tl.float32) * scale_M[:, None]
            scaled_NK = target_NK.to(tl.float32) * scale_N[:, None]
            square_M += tl.sum(scaled_MK * scaled_MK, axis=1)
            square_N += tl.sum(scaled_NK * scaled_NK, axis=1)
            source_MK, target_NK = scaled_MK.to(source_MK.dtype), scaled_NK.to(target_NK.dtype)
        similarity_MN = tl.dot(source_MK, tl.trans(target_NK), similarity_MN, input_precision="ieee")
    if COSINE:
        norm_M, norm_N = tl.sqrt(square_M), tl.sqrt(square_N)
        norm_M, norm_N = tl.where(norm_M == 0, 1.0, norm_M), tl.where(norm_N == 0, 1.0, norm_N)
        similarity_MN = similarity_MN / norm_M[:, None] / norm_N[None, :]
    return similarity_MN


@triton.jit
def negative_log_sum_exp(value_MN, AXIS: tl.constexpr):
    """The potential that gives each row (AXIS 1) or column (AXIS 0) a mass of one."""
    largest = tl.max(value_MN, axis=AXIS, keep_dims=True)
    total = tl.sum(tl.exp(value_MN - largest), axis=AXIS, keep_dims=True)
    return -(largest + tl.log(total))


@triton.jit
def heavier_link(found_L, mass_L, best_L, best_mass_L):
    """The heavier of two links of each token, the lower index among equals; -1 is no link."""
    heavier_L = (mass_L > best_mass_L) | ((mass_L == best_mass_L) & (found_L < best_L))
    heavier_L = heavier_L & (found_L >= 0)
    return tl.where(heavier_L, found_L, best_L), tl.where(heavier_L, mass_L, best_mass_L)


@triton.jit
def any_of(flag_L):
    return tl.max(flag_L.to(tl.int32), axis=0) > 0


@triton.jit
def spans_of(pair_vectors, which, planned):
    """Pair index, source start and length, target start and length: column `which` of int32 [5, planned]."""
    pair_vectors += which
    pair = tl.load(pair_vectors)
    source_start = tl.load(pair_vectors + planned)
    rows = tl.load(pair_vectors + 2 * planned)
    target_start = tl.load(pair_vectors + 3 * planned)
    columns = tl.load(pair_vectors + 4 * planned)
    return pair, source_start, rows, target_start, columns


@triton.jit(do_not_specialize=BATCH_SIZES)
def align_pairs_fused(
    hidden,
    pair_vectors,
    links,
    partner,
    score,
    status,
    width,
    tokens,
    first,
    planned,
    temperature,
    log_discount,
    clip_floor,
    largest_similarity,
    COST_IS_CLIP: tl.constexpr,
    COSINE: tl.constexpr,
    ITERATIONS: tl.constexpr,
    ROUNDS: tl.constexpr,
    SMALLEST_FOR_MORE_ROUNDS: tl.constexpr,
    NON_FINITE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Align one pair.

    pair_vectors: int32 [5, planned]: pair index, source start and length, target start and length, no side empty; this
    launch takes the columns from `first` on. links [ROUNDS, tokens], partner and score [tokens], status [B] hold the
    answer for no link and are written for the tokens of this pair only.
    """
    pair, source_start, rows, target_start, columns = spans_of(pair_vectors, first + tl.program_id(0), planned)
    row_M, column_N = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    real_M, real_N = row_M < rows, column_N < columns
    real_MN = real_M[:, None] & real_N[None, :]

    # S, and whether all of it is a number within range.
    plan_MN = similarity_tile(
        hidden, source_start, target_start, real_M, real_N, row_M, column_N, width, COSINE, BLOCK_M, BLOCK_N, BLOCK_K
    )
    in_range_MN = tl.abs(plan_MN) * tl.maximum(1.0, 1.0 / temperature) <= largest_similarity
    broken_M = tl.max((real_MN & ~in_range_MN).to(tl.int32), axis=1)
    finite = tl.max(broken_M, axis=0) == 0
    tl.store(status + pair, tl.where(finite, 0, NON_FINITE))
    plan_MN = tl.where(finite, plan_MN, 1.0)

    # log K
    plan_MN = tl.log(tl.maximum(plan_MN, clip_floor)) if COST_IS_CLIP else plan_MN / temperature
    shorter = tl.minimum(rows, columns)
    if ITERATIONS > 0:
        plan_MN = tl.where(shorter == 1, 0.0, plan_MN)  # every cell has the same mass: see the reference
    plan_MN = tl.where(real_MN, plan_MN, NO_MASS)

    # log P = log K + f + g
    row_potential_M1 = tl.zeros((BLOCK_M, 1), dtype=tl.float32)
    column_potential_1N = tl.zeros((1, BLOCK_N), dtype=tl.float32)
    for half_step in tl.static_range(2 * ITERATIONS):
        if (half_step % 2 == 0) == COST_IS_CLIP:
            potential_1N = negative_log_sum_exp(plan_MN + row_potential_M1, 0)
            column_potential_1N = tl.where(real_N[None, :], potential_1N, 0.0)
        else:
            potential_M1 = negative_log_sum_exp(plan_MN + column_potential_1N, 1)
            row_potential_M1 = tl.where(real_M[:, None], potential_M1, 0.0)
    plan_MN = plan_MN + row_potential_M1 + column_potential_1N

    # Rounds of mutual argmax.
    open_M, open_N = real_M & finite, real_N & finite
    partner_M = tl.full((BLOCK_M,), NONE, dtype=tl.int32)
    partner_N = tl.full((BLOCK_N,), NONE, dtype=tl.int32)
    mass_M = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    mass_N = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
    for round_ in tl.static_range(ROUNDS):
        adds = any_of(open_M) & any_of(open_N)
        candidate_MN = plan_MN
        if round_ > 0:
            adds = adds & (shorter >= SMALLEST_FOR_MORE_ROUNDS)
            half_open_MN = open_M[:, None] ^ open_N[None, :]
            candidate_MN = tl.where(half_open_MN, plan_MN + log_discount, plan_MN)
            candidate_MN = tl.where(open_M[:, None] | open_N[None, :], candidate_MN, NO_MASS)
            candidate_MN = tl.where(real_MN, candidate_MN, NO_MASS)
        best_column_M = tl.argmax(candidate_MN, axis=1, tie_break_left=True)
        best_row_N = tl.argmax(candidate_MN, axis=0, tie_break_left=True)
        mutual_MN = (best_column_M[:, None] == column_N[None, :]) & (best_row_N[None, :] == row_M[:, None])
        mutual_MN = mutual_MN & real_MN & (open_M[:, None] | open_N[None, :]) & adds
        found_M = tl.max(tl.where(mutual_MN, column_N[None, :], NONE), axis=1)
        found_N = tl.max(tl.where(mutual_MN, row_M[:, None], NONE), axis=0)
        found_mass_MN = tl.where(mutual_MN, plan_MN, float("-inf"))
        partner_M, mass_M = heavier_link(found_M, tl.max(found_mass_MN, axis=1), partner_M, mass_M)
        partner_N, mass_N = heavier_link(found_N, tl.max(found_mass_MN, axis=0), partner_N, mass_N)
        at_M = (source_start + row_M).to(tl.int64) + round_ * tokens.to(tl.int64)
        tl.store(links + at_M, tl.where(found_M >= 0, target_start + found_M, NONE), mask=real_M)
        open_M, open_N = open_M & (found_M < 0), open_N & (found_N < 0)

    tl.store(partner + source_start + row_M, tl.where(partner_M >= 0, target_start + partner_M, NONE), mask=real_M)
    tl.store(partner + target_start + column_N, tl.where(partner_N >= 0, source_start + partner_N, NONE), mask=real_N)
    tl.store(score + source_start + row_M, mass_M, mask=real_M)
    tl.store(score + target_start + column_N, mass_N, mask=real_N)
