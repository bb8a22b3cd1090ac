"""Similarities of a tile of tokens of the two sides of a pair: dot products, or cosines that no magnitude breaks."""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton
import triton.language as tl


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
    width,
    COSINE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """S, fp32 [BLOCK_M, BLOCK_N]: dot products or cosines of the tokens from these starts on, 0 where a token is not real."""
    position_M, position_N = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    similarity_MN = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    SCALED: tl.constexpr = (
        COSINE and hidden.dtype.element_ty != tl.float16
    )  # fp16's squares are all within fp32's range
    if SCALED:
        scale_M = row_scale(hidden, source_start, source_real_M, position_M, width, BLOCK_M, BLOCK_K)
        scale_N = row_scale(hidden, target_start, target_real_N, position_N, width, BLOCK_N, BLOCK_K)
    if COSINE:
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
            scaled_MK, scaled_NK = source_MK.to(tl.float32), target_NK.to(tl.float32)
            if SCALED:
                scaled_MK, scaled_NK = scaled_MK * scale_M[:, None], scaled_NK * scale_N[:, None]
                source_MK, target_NK = scaled_MK.to(source_MK.dtype), scaled_NK.to(target_NK.dtype)
            square_M += tl.sum(scaled_MK * scaled_MK, axis=1)
            square_N += tl.sum(scaled_NK * scaled_NK, axis=1)
        similarity_MN = tl.dot(source_MK, tl.trans(target_NK), similarity_MN, input_precision="ieee")
    if COSINE:
        norm_M, norm_N = tl.sqrt(square_M), tl.sqrt(square_N)
        norm_M, norm_N = tl.where(norm_M == 0, 1.0, norm_M), tl.where(norm_N == 0, 1.0, norm_N)
        similarity_MN = similarity_MN / norm_M[:, None] / norm_N[None, :]
    return similarity_MN
