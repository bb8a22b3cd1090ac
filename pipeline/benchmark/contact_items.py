"""What `first_contact` does, item by item: ceilings of the device, the kernels' own scripts, products, and training.

An item writes what it finds once it has it, and returns its exit code.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline import shipped
from pipeline.benchmark.contact_record import Contact

KERNELS = shipped.PACKAGE.parent / "kernels"
BATCH = 9_120
"""Tokens of a micro-step of the released recipe."""
VOCABULARIES = (250_002, 250_112)
"""XLM-R's, and the next multiple of 128."""
LARGEST_ERROR = 0.02
"""Relative, of attention in bf16 beside fp32."""


def kernels(*sections: str) -> Callable[[Contact], int]:
    """Sections of `kernels/gpu_checks.py`, which adds to the same record."""

    def run(contact: Contact) -> int:
        options = ["--out", str(contact.record.path), "--minutes", f"{contact.left() / 60:.2f}", "--only", *sections]
        options += ["--dry-run"] if contact.rehearse else []
        return subprocess.run([sys.executable, str(KERNELS / "gpu_checks.py"), *options], check=False).returncode

    return run


def kernels_beside_peers(contact: Contact) -> int:
    """`kernels/benchmark.py`: beside the released algorithm and plain PyTorch, compiled too."""
    options = ["--device", contact.device, "--quick", "--record", str(contact.record.path)]
    options += ["--minutes", f"{contact.left() / 60:.2f}"]
    options += ["--repeats", "1", "--no-compile"] if contact.rehearse else []
    return subprocess.run([sys.executable, str(KERNELS / "benchmark.py"), *options], check=False).returncode


def seconds_of(run: Callable[[], object], device: str, repeats: int = 20) -> float:
    """Seconds a call, from the first of so many to the last, after one that is not counted."""
    run()
    if device == "cpu":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begins.record()
    for _ in range(repeats):
        run()
    ends.record()
    ends.synchronize()
    return float(begins.elapsed_time(ends)) / 1e3 / repeats


def ceilings(contact: Contact) -> int:
    """What the device reaches with a plain copy and a large square product."""
    numbers, side = (1 << 20, 256) if contact.rehearse else (1 << 30, 8192)
    source = torch.ones(numbers, dtype=torch.int8, device=contact.device)
    target = torch.empty_like(source)
    rate = 2 * numbers / seconds_of(lambda: target.copy_(source), contact.device)
    contact.figure("copy, read and written", "copy_", rate / 1e9, "GB/s")
    for dtype in (torch.bfloat16, torch.float16):
        square = torch.randn(side, side, device=contact.device).to(dtype)
        product(contact, f"{side} x {side} x {side}", square, square)
    return 0


def product(contact: Contact, name: str, left: Tensor, right: Tensor) -> None:
    seconds = seconds_of(lambda: left @ right, contact.device)
    operations = 2 * left.shape[0] * left.shape[1] * right.shape[1]
    contact.figure(f"product {name}, {str(left.dtype)[6:]}", "matmul", operations / seconds / 1e12, "TFLOP/s")


def products(contact: Contact) -> int:
    """A layer's products, the three of the vocabulary with and without aligned rows, and attention over packed sequences."""
    tokens, width, rows = (64, 32, 16) if contact.rehearse else (BATCH, 768, 1024)
    vocabularies = (302, 384) if contact.rehearse else VOCABULARIES
    check_attention(contact)
    for dtype in (torch.bfloat16, torch.float16):

        def made(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(*shape, device=contact.device, dtype=torch.float32).to(dtype)

        for name, inner, outer in (("queries, keys and values", width, 3 * width), ("feed-forward", width, 4 * width)):
            product(contact, f"{name}, {tokens} tokens", made(tokens, inner), made(outer, inner).T)
        for words in vocabularies:
            if contact.time_is_up(f"products with {words} words"):
                continue
            weight_VD, input_CD, gradient_CV = made(words, width), made(rows, width), made(rows, words)
            product(contact, f"logits of {words} words", input_CD, weight_VD.T)
            product(contact, f"gradient of the input, {words} words", gradient_CV, weight_VD)
            product(contact, f"gradient of the embedding, {words} words", gradient_CV.T, input_CD)
    return 0


def check_attention(contact: Contact) -> None:
    """Values and gradients of attention over packed sequences in bf16 beside those in fp32, which take another way."""
    compare_attention(contact, "attention over packed sequences", with_bias=False)


def relative_attention(contact: Contact) -> int:
    """The same with a gated relative position bias, which PyTorch compiles a kernel for."""
    compare_attention(contact, "attention with relative positions", with_bias=True)
    return 0


def compare_attention(contact: Contact, what: str, with_bias: bool) -> None:
    from pipeline.data.packing import pack
    from pipeline.model.attention import attend, without_padding
    from pipeline.model.flexible_attention import blocks_of
    from pipeline.model.position_bias import Relative

    packed = pack([list(range(length)) for length in (3, 40, 17, 1, 64, 300)]).to(torch.device(contact.device))
    heads, width = 4, 256
    widths = {"q": width, "k": width, "v": width, **({"gates": heads} if with_bias else {})}
    given = [torch.randn(packed.tokens, size, device=contact.device) for size in widths.values()]
    upstream_TD = torch.randn(packed.tokens, width, device=contact.device)
    distance_HO = torch.randn(heads, 2 * packed.longest - 1, device=contact.device)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [tensor.to(dtype).detach().requires_grad_() for tensor in given]
        query_TD, key_TD, value_TD, *gates = leaves
        bias = None
        if with_bias:
            blocks = blocks_of(packed) if without_padding(query_TD, heads, dropout=0.0) else None
            bias = Relative(distance_HO.to(dtype), blocks).gated(*gates)
        mixed_TD = attend(query_TD, key_TD, value_TD, packed, heads, dropout=0.0, bias=bias)
        mixed_TD.backward(upstream_TD.to(dtype))
        results.append([mixed_TD.detach(), *(tensor.grad for tensor in leaves)])
    for name, exact, own in zip(("values", *(f"gradient of {name}" for name in widths)), *results, strict=True):
        assert exact is not None and own is not None
        error = float((own.float() - exact).norm() / exact.norm())
        contact.check(f"{what}, {name}", error < LARGEST_ERROR, f"relative error {error:.2%}")


def training(name: str) -> Callable[[Contact], int]:
    """An item of `contact_training`, which takes seconds to import."""

    def run(contact: Contact) -> int:
        from pipeline.benchmark import contact_training

        item: Callable[[Contact], int] = getattr(contact_training, name)
        return item(contact)

    return run


ITEMS: dict[str, Callable[[Contact], int]] = {
    "ceilings": ceilings,
    "kernels right": kernels("compile", "right"),
    "kernels repeatable": kernels("repeatable", "graph"),
    "kernels speed": kernels("speed"),
    "kernels beside peers": kernels_beside_peers,
    "kernels tuning": kernels("tuning"),
    "products": products,
    "training speed": training("speed"),
    "loss curves": training("curves"),
    "resume": training("resume"),
    "relative attention": relative_attention,
    "memory check": kernels("memcheck"),
}
