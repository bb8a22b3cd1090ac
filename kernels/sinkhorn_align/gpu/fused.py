"""The fused Triton path: similarity, Sinkhorn and filtering of a pair in one program, with the plan held on chip.

It takes pairs whose sides fit one tile; `streamed` takes longer ones. The steps and their order are the reference's; all
logarithms are of base 2, which is what a GPU has. Most kernels span few enough powers of two for potentials by products, as
the C backend takes them; only the others take exponentials and maxima in every step.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from sinkhorn_align.gpu.arithmetic import exp2, log2, reciprocal
from sinkhorn_align.gpu.similarity import similarity_tile

NO_MASS = tl.constexpr(-1.5e38)
"""The potential of padding, and what a cell of a row and a column with links loses. Any log2 K is at most 1.5e37 in magnitude
(see `settings`), so potentials stay within four times that, and no sum with this is as large as a real cell."""
NONE = tl.constexpr(-1)
LN2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)
WIDEST_PRODUCT_RANGE = tl.constexpr(40.0)
"""How many nats log K may span for products to stay within fp32's range."""
E_TO_WIDEST = tl.constexpr(2.3538526683702e17)
BATCH_SIZES = ("first", "planned", "tokens")
"""Arguments that change from batch to batch: a kernel compiled for their values would be compiled again and again."""


class Sides(NamedTuple):
    """Where the tokens of a pair lie, and how many there are."""

    source_start: tl.tensor
    rows: tl.tensor
    target_start: tl.tensor
    columns: tl.tensor


class Answer(NamedTuple):
    """Where the links of all pairs go, see `align_pairs_fused`."""

    links: tl.tensor
    partner: tl.tensor
    score: tl.tensor
    tokens: tl.tensor


@triton.jit
def sides_of(pair_vectors, which, planned):
    """Pair index and its sides: column `which` of int32 [5, planned]."""
    pair_vectors += which
    source = tl.load(pair_vectors + planned), tl.load(pair_vectors + 2 * planned)
    target = tl.load(pair_vectors + 3 * planned), tl.load(pair_vectors + 4 * planned)
    return tl.load(pair_vectors), Sides(source[0], source[1], target[0], target[1])


@triton.jit
def largest_magnitude(value_MN):
    """The largest |value|, NaN where there is one: as integers, bits of NaN are beyond those of infinity, and so on down."""
    bits_MN = value_MN.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.max(tl.max(bits_MN, axis=1), axis=0).to(tl.float32, bitcast=True)


@triton.jit
def plan_by_products(kernel_MN, shift, real_M, real_N, iterations, COST_IS_CLIP: tl.constexpr):
    """log2 P + shift from K = kernel_MN, all of it above 0: potentials are reciprocals of row and column sums."""
    row_M1 = tl.where(real_M, 1.0, 0.0)[:, None]
    column_1N = tl.where(real_N, 1.0, 0.0)[None, :]
    for _ in range(iterations):
        if COST_IS_CLIP:
            column_1N = reciprocal(tl.sum(kernel_MN * row_M1, axis=0, keep_dims=True))
            column_1N = tl.where(real_N[None, :], column_1N, 0.0)
        row_M1 = tl.where(real_M[:, None], reciprocal(tl.sum(kernel_MN * column_1N, axis=1, keep_dims=True)), 0.0)
        if not COST_IS_CLIP:
            column_1N = reciprocal(tl.sum(kernel_MN * row_M1, axis=0, keep_dims=True))
            column_1N = tl.where(real_N[None, :], column_1N, 0.0)
    row_M1 = tl.where(real_M[:, None], log2(row_M1) + shift, NO_MASS)
    column_1N = tl.where(real_N[None, :], log2(column_1N), NO_MASS)
    return log2(kernel_MN) + row_M1 + column_1N


@triton.jit
def negative_log_sum(value_MN, AXIS: tl.constexpr):
    """The potential that gives each row (AXIS 1) or column (AXIS 0) a mass of one."""
    largest = tl.max(value_MN, axis=AXIS, keep_dims=True)
    return -(largest + log2(tl.sum(exp2(value_MN - largest), axis=AXIS, keep_dims=True)))


@triton.jit
def plan_by_logarithms(log_kernel_MN, real_M, real_N, iterations, COST_IS_CLIP: tl.constexpr):
    """log2 P from log2 K, whatever its range."""
    row_M1 = tl.where(real_M, 0.0, NO_MASS)[:, None]
    column_1N = tl.where(real_N, 0.0, NO_MASS)[None, :]
    for _ in range(iterations):
        if COST_IS_CLIP:
            column_1N = tl.where(real_N[None, :], negative_log_sum(log_kernel_MN + row_M1, 0), NO_MASS)
        row_M1 = tl.where(real_M[:, None], negative_log_sum(log_kernel_MN + column_1N, 1), NO_MASS)
        if not COST_IS_CLIP:
            column_1N = tl.where(real_N[None, :], negative_log_sum(log_kernel_MN + row_M1, 0), NO_MASS)
    return log_kernel_MN + row_M1 + column_1N


@triton.jit
def first_of_largest(value_MN, position_MN, AXIS: tl.constexpr):
    """The largest value of each row (AXIS 1) or column (AXIS 0), and the first position that has it."""
    largest_L = tl.max(value_MN, axis=AXIS)
    is_largest_MN = value_MN == tl.expand_dims(largest_L, AXIS)
    return largest_L, tl.min(tl.where(is_largest_MN, position_MN, 1 << 20), axis=AXIS)


@triton.jit
def any_of(flag_L):
    return tl.max(flag_L.to(tl.int32), axis=0) > 0


@triton.jit
def filter_and_store(
    plan_MN,
    answer,
    sides,
    log_discount,
    ROUNDS: tl.constexpr,
    SMALLEST_FOR_MORE_ROUNDS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Rounds of mutual argmax over log2 P; the answer's buffers hold that of no links, and only links are written.

    A token's heaviest link is its first: what it might have linked to later was there to choose in that round, and a discount
    only makes less of a mass.
    """
    row_M, column_N = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    open_M, open_N = row_M < sides.rows, column_N < sides.columns
    source_M, target_N = sides.source_start + row_M, sides.target_start + column_N
    for round_ in tl.static_range(ROUNDS):
        candidate_MN = plan_MN
        if round_ > 0:
            adds = any_of(open_M) & any_of(open_N) & (tl.minimum(sides.rows, sides.columns) >= SMALLEST_FOR_MORE_ROUNDS)
            # Of a row that is open or has a link: what its cells are worth less, by column
            open_row_1N = tl.where(open_N, 0.0, log_discount)[None, :]
            linked_row_1N = tl.where(open_N, log_discount, NO_MASS)[None, :]
            candidate_MN = plan_MN + tl.where(open_M[:, None], open_row_1N, linked_row_1N)
        largest_M, best_column_M = first_of_largest(candidate_MN, column_N[None, :], 1)
        largest_N, best_row_N = first_of_largest(candidate_MN, row_M[:, None], 0)

        # Where does the best column of a row lead back to, and has it a link?
        back_M = tl.gather(best_row_N + tl.where(open_N, 0, BLOCK_M), best_column_M, 0)
        back_N = tl.gather(best_column_M + tl.where(open_M, 0, BLOCK_N), best_row_N, 0)
        found_M = (back_M & (BLOCK_M - 1)) == row_M
        found_N = (back_N & (BLOCK_N - 1)) == column_N
        if round_ > 0:
            found_M, found_N = found_M & adds, found_N & adds
        at_M = source_M.to(tl.int64) + round_ * answer.tokens.to(tl.int64)
        tl.store(answer.links + at_M, sides.target_start + best_column_M, mask=found_M)

        new_M, new_N = found_M & open_M, found_N & open_N
        mass_M = largest_M - tl.where(back_M >= BLOCK_M, log_discount, 0.0)
        mass_N = largest_N - tl.where(back_N >= BLOCK_N, log_discount, 0.0)
        tl.store(answer.partner + source_M, sides.target_start + best_column_M, mask=new_M)
        tl.store(answer.partner + target_N, sides.source_start + best_row_N, mask=new_N)
        tl.store(answer.score + source_M, mass_M * LN2, mask=new_M)
        tl.store(answer.score + target_N, mass_N * LN2, mask=new_N)
        open_M, open_N = open_M & ~found_M, open_N & ~found_N


@triton.jit
def align_tile(
    hidden,
    answer,
    status,
    sides,
    width,
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Align a pair whose sides fit BLOCK_M and BLOCK_N; `status` points at the pair's own."""
    real_M, real_N = tl.arange(0, BLOCK_M) < sides.rows, tl.arange(0, BLOCK_N) < sides.columns
    similarity_MN = similarity_tile(
        hidden, sides.source_start, sides.target_start, real_M, real_N, width, COSINE, BLOCK_M, BLOCK_N, BLOCK_K
    )
    most = largest_magnitude(similarity_MN)  # padding has S = 0
    finite = most * tl.maximum(1.0, 1.0 / temperature) <= largest_similarity  # not so for NaN
    tl.store(status, tl.where(finite, 0, NON_FINITE))
    if finite:
        # A side of one token takes up the kernel whole: every cell has the same mass, see the reference.
        uniform = (tl.minimum(sides.rows, sides.columns) == 1) & (iterations > 0)
        if COST_IS_CLIP:
            floor = tl.where(uniform, tl.maximum(most, clip_floor), clip_floor)
            similarity_MN = tl.maximum(similarity_MN, floor)
            narrow = most <= clip_floor * E_TO_WIDEST
        else:
            scale = tl.where(uniform, 0.0, LOG2_E / temperature)
            narrow = 2 * most <= WIDEST_PRODUCT_RANGE * temperature
        if narrow:
            shift = 0.0
            if not COST_IS_CLIP:
                similarity_MN = exp2(similarity_MN * scale - most * scale)
                shift = tl.where(iterations > 0, 0.0, most * scale)
            plan_MN = plan_by_products(similarity_MN, shift, real_M, real_N, iterations, COST_IS_CLIP)
        else:
            log_kernel_MN = log2(similarity_MN) if COST_IS_CLIP else similarity_MN * scale
            plan_MN = plan_by_logarithms(log_kernel_MN, real_M, real_N, iterations, COST_IS_CLIP)
        filter_and_store(plan_MN, answer, sides, log_discount, ROUNDS, SMALLEST_FOR_MORE_ROUNDS, BLOCK_M, BLOCK_N)


@triton.jit(do_not_specialize=(*BATCH_SIZES, "iterations"))
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
    iterations,
    COST_IS_CLIP: tl.constexpr,
    COSINE: tl.constexpr,
    ROUNDS: tl.constexpr,
    SMALLEST_FOR_MORE_ROUNDS: tl.constexpr,
    NON_FINITE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SHORT_BLOCK: tl.constexpr,
):
    """Align one pair, in a tile of SHORT_BLOCK a side where that holds it and is not 0.

    pair_vectors: int32 [5, planned]: pair index, source start and length, target start and length, no side empty; this
    launch takes the columns from `first` on. links [ROUNDS, tokens], partner and score [tokens], status [B] hold the
    answer for no link and are written for the tokens of this pair only. log_discount: of base 2.
    """
    pair, sides = sides_of(pair_vectors, first + tl.program_id(0), planned)
    answer = Answer(links, partner, score, tokens)
    for part in tl.static_range(2 if SHORT_BLOCK > 0 else 1):
        if (tl.maximum(sides.rows, sides.columns) <= SHORT_BLOCK) == (part == 1):
            align_tile(
                hidden,
                answer,
                status + pair,
                sides,
                width,
                temperature,
                log_discount,
                clip_floor,
                largest_similarity,
                iterations,
                COST_IS_CLIP,
                COSINE,
                ROUNDS,
                SMALLEST_FOR_MORE_ROUNDS,
                NON_FINITE,
                BLOCK_M if part == 0 else SHORT_BLOCK,
                BLOCK_N if part == 0 else SHORT_BLOCK,
                BLOCK_K,
            )
