"""Compiles the model's Triton kernels for GPUs that need not be here; prints the widths of their loads and stores."""

import json
import os
import re

os.environ.pop("TRITON_INTERPRET", None)  # its functions cannot be compiled

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.model.cross_entropy import GRADIENT_BLOCK, GRADIENT_ROWS, GRADIENT_WARPS, LOSS_BLOCK, LOSS_WARPS
from pipeline.model.logits_kernel import logit_gradients, row_losses
from pipeline.model.norm_kernel import add_and_norm
from pipeline.model.residual_norm import WARPS

KERNELS = {
    "row_losses": (row_losses, {"MEAN": True, "BLOCK": LOSS_BLOCK}, LOSS_WARPS),
    "logit_gradients": (logit_gradients, {"ROWS": GRADIENT_ROWS, "BLOCK": GRADIENT_BLOCK}, GRADIENT_WARPS),
    "add_and_norm": (add_and_norm, {"BLOCK": 1024}, WARPS),
}
HALF = ("gradient", "left", "right", "weight", "summed", "normed")
NUMBERS = {
    "stride": "i32",
    "words": "i32",
    "rows": "i32",
    "width": "i32",
    "smoothing": "fp32",
    "factor": "fp32",
    "eps": "fp32",
}
INTEGERS = {"target": "*i64", "hit": "*i32"}
NOT_ALIGNED = ("words", "rows", "smoothing", "factor", "eps")

found = {}
for name, (kernel, constants, warps) in KERNELS.items():
    types = {
        argument: "constexpr"
        if argument in constants
        else {**NUMBERS, **INTEGERS}.get(argument)
        or ("*bf16" if argument in HALF or (argument == "bias" and kernel is add_and_norm) else "*fp32")
        for argument in kernel.arg_names
    }
    aligned = [number for number, argument in enumerate(types) if argument not in (*constants, *NOT_ALIGNED)]
    source = ASTSource(kernel, types, constants, {(number,): [["tt.divisibility", 16]] for number in aligned})
    for capability in (80, 90):
        compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options={"num_warps": warps})
        wide = {which: bool(re.search(rf"{which}\.global\S*\.v4\.b32", compiled.asm["ptx"])) for which in ("ld", "st")}
        found[f"{name} sm_{capability}"] = wide
print(json.dumps(found))
