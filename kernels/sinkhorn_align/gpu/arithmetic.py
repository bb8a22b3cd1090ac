"""Logarithm, exponential and reciprocal of a GPU's special-function unit: one instruction each, exact but for some last bits.

PTX promises 2 ulp for `ex2`, 1 ulp for `rcp` and an error of 2^-22 for `lg2`, absolute between 0.5 and 2 and relative
elsewhere: what a log mass of some tens of units loses is a tenth of what `agreement.py` allows. Triton's own logarithm is 22
instructions long. Triton's interpreter, which has no PTX, takes NumPy's functions.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def log2(x):
    """Logarithm of base 2, fp32; -inf for 0."""
    if INTERPRETED:
        return tl.log2(x)
    else:  # noqa: RET505
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def exp2(x):
    """2 to the power of x, fp32."""
    if INTERPRETED:
        return tl.exp2(x)
    else:  # noqa: RET505
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def reciprocal(x):
    """1 / x, fp32."""
    if INTERPRETED:
        return 1.0 / x
    else:  # noqa: RET505
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
