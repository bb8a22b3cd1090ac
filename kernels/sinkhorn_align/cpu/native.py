"""The native backend: `native.c` compiled for the CPU it runs on, over shares of the batch, a thread each.

It hands pointers over; what is computed stands in `native.c`, and how that is compiled in `compiled.py`.
"""

import ctypes
import functools
import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from sinkhorn_align.cpu import compiled
from sinkhorn_align.links import Links, PairStatus
from sinkhorn_align.settings import (
    CLIP_FLOOR,
    LARGEST_SIMILARITY,
    SMALLEST_SIDE_FOR_MORE_ROUNDS,
    AlignmentSettings,
)
from sinkhorn_align.spans import Spans

SOURCE = Path(__file__).with_name("native.c")
LEAST_WORK_A_THREAD = 1 << 20
"""Multiplications for which a thread is worth waking."""


class _Settings(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("cost_is_clip", "cosine", "iterations", "rounds")),
        *((name, ctypes.c_int32) for name in ("smallest_for_more_rounds", "non_finite")),
        *((name, ctypes.c_float) for name in ("temperature", "log_discount", "clip_floor", "largest_similarity")),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("hidden", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("tokens", "width")),
        *((f"{side}_{what}", ctypes.c_void_p) for side in ("source", "target") for what in ("start", "length")),
        *((name, ctypes.c_void_p) for name in ("similarity", "similarity_at")),
        *((name, ctypes.c_void_p) for name in ("links", "partner", "score", "status")),
    ]


def align_native(
    hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings, similarities: tuple[Tensor, Tensor] | None = None
) -> Links:
    """`align` on the CPU.

    `similarities` is for measurements: every pair's S, fp32, row by row after each other, and where each begins (int64
    [B]); the hidden states are then not read. Raises ValueError where it cannot be compiled (see `library`).
    """
    native = library()
    tokens, width = hidden_TD.shape
    hidden_TD = hidden_TD.float().contiguous()
    answer = Links(
        links_RT=torch.full((settings.filter_rounds, tokens), -1, dtype=torch.int32),
        partner_T=torch.full((tokens,), -1, dtype=torch.int32),
        score_T=torch.full((tokens,), -math.inf),
        status_B=torch.full((spans.pairs,), int(PairStatus.EMPTY_SIDE), dtype=torch.int32),
    )
    given = similarities or (None, None)
    fields = (answer.links_RT, answer.partner_T, answer.score_T, answer.status_B)
    pointers = map(_address, (*spans, *given, *fields))
    batch = _Batch(hidden_TD.data_ptr(), tokens, width, *pointers)
    chosen = _Settings(
        settings.cost == "clip",
        settings.similarity == "cosine",
        settings.sinkhorn_iterations,
        settings.filter_rounds,
        SMALLEST_SIDE_FOR_MORE_ROUNDS,
        int(PairStatus.NON_FINITE),
        settings.temperature,
        math.log(settings.discount),
        CLIP_FLOOR,
        LARGEST_SIMILARITY,
    )
    shares = _shares(spans, width, torch.get_num_threads())
    run = functools.partial(native.align_pairs, ctypes.byref(batch), ctypes.byref(chosen))
    # The last share is this thread's own; the call leaves the interpreter to the other threads.
    others = [_threads().submit(run, first, last) for first, last in shares[:-1]]
    found_memory = [run(*shares[-1]), *(other.result() for other in others)]
    if not all(found_memory):
        raise MemoryError("align: no memory for the plan of the longest pair; cut long sides")
    return answer


def _address(tensor: Tensor | None) -> int | None:
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()


def _shares(spans: Spans, width: int, threads: int) -> list[tuple[int, int]]:
    """The pairs cut into at most `threads` runs of about equal work: (first, last + 1) each."""
    work_B = (spans.source_length_B * spans.target_length_B * width).cumsum(0)
    total = int(work_B[-1]) if spans.pairs else 0
    shares = max(1, min(threads, total // LEAST_WORK_A_THREAD))
    cuts = torch.searchsorted(work_B, torch.arange(1, shares) * (total // shares)).tolist()
    ends = [0, *cuts, spans.pairs]
    return list(itertools.pairwise(ends))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="align")


os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked process has none of its parent's threads


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled `native.c`. Raises ValueError where it cannot be had (see `compiled.load`)."""
    native = compiled.load(SOURCE)
    native.align_pairs.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    native.align_pairs.restype = ctypes.c_int
    return native
