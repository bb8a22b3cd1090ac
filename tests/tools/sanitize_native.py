"""Calls the C kernel with random pairs, hostile ones among them, under the address and undefined-behaviour sanitizers.

    python tests/tools/sanitize_native.py --calls 10000 [--seed N]

Each call has hidden states of another size, spans that touch, leave or overflow them, sides without tokens, and numbers that
are huge, infinite or NaN. A batch that is outside its hidden states must be refused, by ValueError; what is not refused is
compared with PyTorch's backend where its numbers are ordinary. A sanitizer's finding ends the process with its report. Needs
gcc with libasan.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

SANITIZED = "cc -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
KERNELS = Path(__file__).resolve().parents[2] / "kernels"


def call(draw: random.Random) -> str:
    """One random call, and what became of it."""
    import torch

    from sinkhorn_align import AlignmentSettings, Spans, align

    pairs, width = draw.randint(0, 6), draw.choice((1, 2, 3, 7, 16, 33, 100))
    lengths = [draw.choice((0, 1, 2, 3, 5, 17, 40, 70)) for _ in range(2 * pairs)]
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    hidden_TD = torch.randn(
        sum(lengths) + draw.randint(0, 3), width, generator=torch.Generator().manual_seed(draw.randrange(2**31))
    )
    is_ordinary = draw.random() < 0.5
    if not is_ordinary and hidden_TD.numel():
        for _ in range(draw.randint(1, 5)):
            value = draw.choice((float("inf"), -float("inf"), float("nan"), 1e38, -1e38, 1e-45, 0.0))
            hidden_TD.view(-1)[draw.randrange(hidden_TD.numel())] = value
    is_outside = bool(lengths) and draw.random() < 0.3
    if is_outside:
        vector = draw.choice((starts, lengths))
        vector[draw.randrange(len(vector))] = draw.choice(
            (-1, -(2**31), len(hidden_TD) + 1, 2**31 - 1, 2**63 - 1, -(2**63))
        )
    exp = draw.random() < 0.5
    settings = AlignmentSettings(
        cost="exp" if exp else "clip",
        similarity=draw.choice(("dot", "cosine")) if exp else "dot",
        temperature=draw.choice((1e-3, 0.1, 1.0, 1e3)) if exp else 1.0,
        sinkhorn_iterations=draw.randint(0, 4),
        filter_rounds=draw.randint(1, 4),
        discount=draw.choice((1e-6, 0.9, 1.0)),
    )
    spans = Spans(
        *(torch.tensor(vector[side::2], dtype=torch.int64) for side in (0, 1) for vector in (starts, lengths))
    )
    try:
        found = align(hidden_TD, spans, settings, backend="native")
    except ValueError:
        assert is_outside, (lengths, starts, settings)
        return "refused"
    assert not is_outside, (lengths, starts, settings)
    if is_ordinary:
        expected = align(hidden_TD, spans, settings, backend="torch")
        assert torch.equal(found.status_B, expected.status_B), (lengths, settings)
        return "as PyTorch's"
    return "hostile numbers"


def calls(count: int, seed: int) -> None:
    sys.path.insert(0, str(KERNELS))
    draw = random.Random(seed)
    outcomes: dict[str, int] = {}
    for _ in range(count):
        outcome = call(draw)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"{count:,} calls, no finding: " + ", ".join(f"{what} {times:,}" for what, times in sorted(outcomes.items())))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        calls(options.calls, options.seed)
        return 0
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "CC": SANITIZED,
            "SINKHORN_ALIGN_CACHE": cache,
            "LD_PRELOAD": library,
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        }
        command = [sys.executable, __file__, "--within", "--calls", str(options.calls), "--seed", str(options.seed)]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
