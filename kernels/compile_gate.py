"""Compiles every default launch of the Triton kernels, on any machine, and records what became of it.

Run `python kernels/compile_gate.py` to compare with `compiled.json`, `--write` to record anew, `--quick` to compile only the
default settings in bf16. It needs no GPU: registers, stack, shared memory and instructions are read from the compiled code.
The hidden width is an argument of the kernels, so that one compilation stands for every width that is a multiple of 16 (384,
768 and 1024 among them).
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # its functions cannot be compiled

try:
    import triton
except ModuleNotFoundError:
    sys.exit("error: the package triton is not installed; `pip install triton` (it comes with PyTorch for CUDA)")
from count_instructions import instructions_of_a_pair
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sinkhorn_align import AlignmentSettings
from sinkhorn_align.gpu.fused import align_pairs_fused
from sinkhorn_align.gpu.launch import constants
from sinkhorn_align.gpu.streamed import align_pairs_streamed
from sinkhorn_align.gpu.tiles import FUSED_TILES, LONGEST_SIDE, SHORT_TILE, fused_tile, streamed_options

RECORD = Path(__file__).with_name("compiled.json")
CAPABILITIES = (80, 90, 100)
TENSOR_CORE = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")
"""PTX instructions; newer devices take those of older ones for small tiles."""
MOST_STACK_OF_LARGEST = 160
"""Bytes a thread that the largest fused tile may spill; no other launch may. A 128 x 128 plan alone takes 32 of its 128
registers a thread; what spills stays in the first-level cache, while the streamed path would write and read 64 KB a pair some
five times."""
COUNTED_WIDTH = 768
"""The hidden width for which instructions are counted."""
ELEMENT = {"bf16": 2, "fp16": 2, "fp32": 4}
SETTINGS = {
    "clip": AlignmentSettings(),
    "cosine": AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1),
}
KERNELS = {kernel.fn.__name__: kernel for kernel in (align_pairs_fused, align_pairs_streamed)}
POINTERS = {
    "hidden": "",
    "pair_vectors": "*i32",
    "similarity": "*fp32",
    "row_floats": "*fp32",
    "row_integers": "*i32",
    "column_integers": "*i32",
    "arrivals": "*i32",
    "links": "*i32",
    "partner": "*i32",
    "score": "*fp32",
    "status": "*i32",
}
NUMBERS = {
    "width": "i32",
    "tokens": "i32",
    "first": "i32",
    "planned": "i32",
    "most_rows": "i32",
    "most_columns": "i32",
    "iterations": "i32",
    "temperature": "fp32",
    "log_discount": "fp32",
    "clip_floor": "fp32",
    "largest_similarity": "fp32",
}


@dataclass(frozen=True, order=True)
class Job:
    """One launch to compile."""

    kernel: str
    capability: int
    dtype: str
    settings: str
    rows: int
    columns: int
    short: int
    """The tile of the launch's shortest pairs, 0 for none."""


@dataclass(frozen=True)
class Compiled:
    """What a launch compiles to: a thread's registers and stack (bytes), a program's shared memory (bytes), the tensor-core
    instructions in its PTX, and the instructions that all warps of a fused launch issue for one pair (of the shortest tile,
    `COUNTED_WIDTH` wide)."""

    warps: int
    registers: int
    stack: int
    shared: int
    tensor_core: int
    instructions: int


def jobs() -> Iterator[Job]:
    """Every default launch in bf16, with both ways to a similarity: fp16 takes its tiles. fp32, which no GPU trains in,
    for sm_90 only. The launch of the smallest tiles is there once more for each of its two, for their instructions."""
    alone = [(SHORT_TILE, 0), (FUSED_TILES[0], 0)]
    launched = [(FUSED_TILES[0], SHORT_TILE), *((side, 0) for side in FUSED_TILES[1:])]
    for capability in CAPABILITIES:
        ways = [("bf16", "clip"), ("bf16", "cosine"), *([("fp32", "clip")] if capability == 90 else [])]
        for dtype, settings in ways:
            tiles = launched + (alone if (dtype, settings) == ("bf16", "clip") else [])
            yield from (
                Job("align_pairs_fused", capability, dtype, settings, side, side, short) for side, short in tiles
            )
            yield Job("align_pairs_streamed", capability, dtype, settings, LONGEST_SIDE, LONGEST_SIDE, 0)


def arguments_of(job: Job) -> dict[str, int | float]:
    """Compile-time arguments and launch options, as `gpu.launch` gives them."""
    if job.kernel == "align_pairs_streamed":
        options = streamed_options(ELEMENT[job.dtype], job.capability)
    else:
        cosine = SETTINGS[job.settings].similarity == "cosine"
        options = fused_tile(job.rows, job.columns, ELEMENT[job.dtype], job.capability, cosine).options()
    return constants(SETTINGS[job.settings]) | options | {"SHORT_BLOCK": job.short}


def compile_job(job: Job) -> Compiled:
    """Compile for a GPU that need not be there; pointers and the width are multiples of 16, as torch's are."""
    kernel, given = KERNELS[job.kernel], arguments_of(job)
    types = POINTERS | {"hidden": f"*{job.dtype}"} | NUMBERS
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    constexprs = {name: given[name] for name in kernel.arg_names if name not in types}
    aligned = [index for index, name in enumerate(kernel.arg_names) if name in POINTERS or name == "width"]
    source = ASTSource(kernel, signature, constexprs, {(index,): [["tt.divisibility", 16]] for index in aligned})
    options = {name: given[name] for name in ("num_warps", "num_stages", "maxnreg") if name in given}
    compiled = triton.compile(source, target=GPUTarget("cuda", job.capability, 32), options=options)
    registers, stack = _resources(compiled.asm["cubin"])
    tensor_core = sum(compiled.asm["ptx"].count(name) for name in TENSOR_CORE)
    instructions = 0
    if job.kernel == "align_pairs_fused":
        steps, iterations = COUNTED_WIDTH // given["BLOCK_K"], given["iterations"]
        sass = _tool("nvdisasm", compiled.asm["cubin"], "-c")
        instructions = given["num_warps"] * instructions_of_a_pair(sass, steps, iterations).total()
    return Compiled(given["num_warps"], registers, stack, compiled.metadata.shared, tensor_core, instructions)


def try_to_compile(job: Job) -> Compiled | str:
    """What became of a launch, or in one line why it does not compile."""
    try:
        return compile_job(job)
    except (RuntimeError, triton.CompilationError) as error:
        return f"does not compile: {str(error).splitlines()[0]}"


def _resources(cubin: bytes) -> tuple[int, int]:
    usage = _tool("cuobjdump", cubin, "-res-usage")
    words = dict(word.split(":") for word in usage.split() if word.startswith(("REG:", "STACK:")))
    return int(words["REG"]), int(words["STACK"])


def _tool(name: str, cubin: bytes, option: str) -> str:
    """What a tool that comes with Triton prints about compiled code."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, option, file.name], check=True, capture_output=True, text=True).stdout


def faults(compiled: dict[Job, Compiled]) -> list[str]:
    """What breaks the rules: a spill that is not allowed, or a half-precision product without tensor cores."""
    found = []
    for job, result in compiled.items():
        largest = job.kernel == "align_pairs_fused" and job.rows == job.columns == FUSED_TILES[-1]
        allowed = MOST_STACK_OF_LARGEST if largest else 0
        if result.stack > allowed:
            found.append(f"{job}: {result.stack} bytes of stack a thread, at most {allowed}")
        if job.dtype != "fp32" and result.tensor_core == 0:
            found.append(f"{job}: no tensor-core instruction")
    return found


def key_of(row: dict) -> Job:
    """The launch that a row of the record is about."""
    return Job(**{field.name: row[field.name] for field in fields(Job)})


def rows_of(compiled: dict[Job, Compiled]) -> list[dict]:
    return [asdict(job) | asdict(result) for job, result in sorted(compiled.items())]


def differences(recorded: list[dict], now: list[dict]) -> list[str]:
    """Lines on every launch whose entry is new, gone or other than recorded."""
    old, new = ({key_of(row): row for row in rows} for rows in (recorded, now))
    return [
        f"{key}: recorded {old.get(key)}, now {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python kernels/compile_gate.py --write")
    parser.add_argument("--write", action="store_true", help=f"record what was compiled in {RECORD.name}")
    parser.add_argument("--quick", action="store_true", help="only the default settings, in bf16")
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--write records every launch; leave --quick out")

    todo = [job for job in jobs() if not arguments.quick or (job.settings, job.dtype) == ("clip", "bf16")]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = dict(zip(todo, pool.map(try_to_compile, todo, chunksize=4), strict=True))
    compiled = {job: answer for job, answer in answers.items() if isinstance(answer, Compiled)}
    problems = faults(compiled) + [f"{job}: {answer}" for job, answer in answers.items() if isinstance(answer, str)]
    now = rows_of(compiled)
    if arguments.write:
        lines = ",\n".join(json.dumps(row) for row in now)
        RECORD.write_text(f'{{"triton": "{triton.__version__}", "launches": [\n{lines}\n]}}\n', encoding="utf-8")
    else:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        if record["triton"] == triton.__version__:
            chosen = set(todo)
            problems += differences(
                [row for row in record["launches"] if key_of(row) in chosen or not arguments.quick], now
            )
        else:
            print(f"recorded with triton {record['triton']}, this is {triton.__version__}: only the rules are checked")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(compiled)} launches compiled, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
