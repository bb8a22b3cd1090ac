"""Many random pairs through the Triton kernels in Triton's interpreter, on a CPU, each compared with the float64 reference.

    python tests/tools/interpret_triton.py --pairs 600 [--seed N] [--approximate]

The test suite runs a few hundred in its time; this runs as many as asked for in every cost mode and dtype, at 25 ms a pair and
more. With --approximate, logarithms, exponentials and reciprocals have a GPU's errors (`special_functions.py`). Exit code 1
where a link differs without a decision too close to call.
"""

import argparse
import os
import sys
import time

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import numpy as np
import torch
from torch import Tensor

try:
    from special_functions import approximated
except ModuleNotFoundError:
    sys.exit("error: the package triton is not installed; `pip install triton` (it comes with PyTorch for CUDA)")

from sinkhorn_align import AlignmentSettings, Spans, align
from sinkhorn_align.agreement import compare

MODES = {
    "clip": AlignmentSettings(),
    "clip, kernel alone": AlignmentSettings(sinkhorn_iterations=0, filter_rounds=3),
    "exp, dot": AlignmentSettings(cost="exp", temperature=4.0),
    "exp, cosine": AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1, filter_rounds=3),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WIDTH, LONGEST = 32, 40


def draw(seed: int, pairs: int) -> tuple[Tensor, Spans]:
    """Ragged pairs, empty sides among them, whose tokens share directions; special tokens are NaN, to poison."""
    generator = torch.Generator().manual_seed(seed)
    length_B2 = torch.randint(0, LONGEST + 1, (pairs, 2), generator=generator)
    first_B = (length_B2.sum(dim=1) + 3).cumsum(0) - length_B2.sum(dim=1) - 3
    tokens = int(length_B2.sum()) + 3 * pairs
    meaning_VD = torch.randn(100, WIDTH, generator=generator) + 1.5
    word_T = torch.randint(len(meaning_VD), (tokens,), generator=generator)
    hidden_TD = meaning_VD[word_T] + 0.7 * torch.randn(tokens, WIDTH, generator=generator)
    source_B, target_B = length_B2.unbind(dim=1)
    special_S = torch.cat([first_B, first_B + 1 + source_B, first_B + 2 + source_B + target_B])
    hidden_TD[special_S] = float("nan")
    vectors = (first_B + 1, source_B, first_B + 2 + source_B, target_B)
    return hidden_TD, Spans(*(vector.int() for vector in vectors))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--approximate", action="store_true", help="with the errors of a GPU's special functions")
    options = parser.parse_args()
    wrong = 0
    with approximated() if options.approximate else np.errstate(all="ignore"):
        for seed, (name, settings) in enumerate(MODES.items(), start=options.seed):
            for dtype_name, dtype in DTYPES.items():
                began = time.monotonic()
                hidden_TD, spans = draw(seed, options.pairs)
                batch = hidden_TD.to(dtype), spans
                agreement = compare(align(*batch, settings, backend="triton"), *batch, settings)
                wrong += len(agreement.wrong)
                close = f"{len(agreement.too_close)} too close to call"
                told = f"{agreement.pairs:,} pairs, {close}, {len(agreement.wrong)} wrong"
                lines = [f"{name}, {dtype_name}: {told}, {time.monotonic() - began:.0f} s", *agreement.wrong[:3]]
                print(*lines, sep="\n  ", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
