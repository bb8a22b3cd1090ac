"""What a micro-step would launch and move on a GPU, counted without one: fake tensors have shapes and no values.

Every PyTorch call that makes or changes a tensor counts as one launch, and reads and writes each of its tensors once. Both
are lower bounds: a softmax reads twice, the gradient of an embedding sorts. Sinkhorn's labels are one call of several launches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.data.batch import MicroBatch, View
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.model import devices
from pipeline.model.encoder import Encoder
from pipeline.model.linear_cross_entropy import linear_cross_entropy
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.objectives.word_alignment import WordAlignment
from pipeline.settings.added_words import AddedWords
from pipeline.settings.sizes import EncoderConfig
from sinkhorn_align import AlignmentSettings

NOTHING_RUNS = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "device",
    "_unsafe_view",
    "promote_types",
}
PRODUCTS = ("mm", "addmm", "bmm")
ACCUMULATES = "add_"


class Launch(NamedTuple):
    """One call: what it reads and writes, and the operations of a product."""

    name: str
    moved: int  # bytes
    flops: float


@dataclass
class Work:
    """Calls in their order."""

    launches: list[Launch] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        return Counter(launch.name for launch in self.launches)


class Counting(TorchDispatchMode):
    """Counts what runs while it is entered. least: numbers of a tensor from which on its bytes are counted."""

    def __init__(self, least: int = 0) -> None:
        super().__init__()
        self.work, self._least = Work(), least

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        made = func(*args, **given)
        name = func._schema.name.split("::")[-1]
        if name not in NOTHING_RUNS and not _only_views(func):
            # What is handed over to be written into is counted as a result, or, where there is none, once.
            targets = {argument.name for argument in func._schema.arguments if argument.is_out}
            read = [value for key, value in given.items() if key not in targets]
            moved = sum(map(self._bytes, tree_leaves((args, read, made))))
            self.work.launches.append(Launch(name, moved, _product_flops(name, args)))
        return made

    def _bytes(self, value: Any) -> int:
        large = isinstance(value, Tensor) and value.numel() >= self._least
        return value.numel() * value.element_size() if large else 0


def _product_flops(name: str, arguments: Sequence[Any]) -> float:
    if name not in PRODUCTS:
        return 0.0
    left, right = arguments[1:3] if name == "addmm" else arguments[:2]
    return 2.0 * left.numel() * right.shape[-1]


def _only_views(func: Any) -> bool:
    """Whether what it returns is memory that it was given, unchanged."""
    returned = [value.alias_info for value in func._schema.returns]
    return bool(returned) and all(alias is not None and not alias.is_write for alias in returned)


@contextmanager
def as_on_gpu() -> Iterator[FakeTensorMode]:
    """Fake tensors, whose operations are those that a GPU would be given."""
    with mock.patch.object(devices, "on_gpu", return_value=True), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Models are made in it: those of fake tensors cannot be cast."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass
class MicroStep:
    """Work of one micro-step, by its parts."""

    label: Work
    forward: Work
    backward: Work
    tokens: int
    predicted: int
    flops: float

    @property
    def accumulating(self) -> int:
        """Launches of the backward that add a gradient to what is there: none in the first micro-step of a step."""
        return self.backward.counts[ACCUMULATES]

    def launches(self, micro_steps: int) -> float:
        """Of forward and backward, without those; all micro-batches of a step are labelled at once."""
        own = len(self.forward.launches) + len(self.backward.launches) - self.accumulating
        return len(self.label.launches) / micro_steps + own


def bytes_a_logit(rows: int, words: int, width: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, float]:
    """What `linear_cross_entropy` and its gradient move of each logit, by call; products with the weights among them."""
    assert min(rows, words) > width, "what else is moved has to be smaller"
    with as_on_gpu() as mode:
        input_PD, weight_VD, bias_V = (
            torch.empty(shape, dtype=dtype, requires_grad=True) for shape in ((rows, width), (words, width), (words,))
        )
        target_P = mode.from_tensor(torch.zeros(rows, dtype=torch.long))
        with Counting(least=rows * words) as counting:
            linear_cross_entropy(input_PD, weight_VD, bias_V, target_P)[0].backward()
    moved: Counter[str] = Counter()
    for launch in counting.work.launches:
        moved[launch.name] += launch.moved
    return {name: bytes_ / (rows * words) for name, bytes_ in moved.items() if bytes_}


def count_micro_step(
    sizes: EncoderConfig,
    blocks: Sequence[int],
    sides: Sequence[tuple[int, int]],
    alignment_layer: int,
    dtype: torch.dtype = torch.bfloat16,
) -> MicroStep:
    """Of the released recipe's three objectives, not the first of a step: gradients are added to those that are there.

    blocks: tokens of each block; sides: of each pair's source and target.
    """
    pair_lengths = [source + target + 3 for source, target in sides]
    words = AddedWords(sizes.vocab_size)
    mono, pairs = (View(stream, MaskedTokens.name) for stream in ("mono", "pairs"))
    batch = MicroBatch(
        {
            "mono": collate(sequences_of(list(blocks), None), 1, words, [mono]),
            "pairs": collate(sequences_of(pair_lengths, np.array(sides)), 1, words, [pairs]),
        }
    )
    objectives = [
        *(MaskedLM("mlm", "mono", factor=1.0), MaskedLM("tlm", "pairs", factor=1.0)),
        WordAlignment("dwa", alignment_layer, AlignmentSettings()),
    ]
    with as_on_gpu() as mode:
        with _default_dtype(dtype):
            model = PretrainingModel(Encoder(sizes), objectives)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        fake = batch.map(mode.from_tensor)
        label, forward, backward = Counting(), Counting(), Counting()
        model.eval()
        with torch.no_grad(), label:
            found = model("label", fake)
        model.train()
        with forward:
            terms = model("losses", fake, {name: of["labels"] for name, of in found.items()})
            loss = torch.stack([term["loss"] for term in terms.values()]).sum()
        with backward:
            loss.backward()
    predicted = sum(len(stream.view(MaskedTokens).predicted_P) for stream in batch.streams.values())
    flops = model.flops(batch)
    return MicroStep(label.work, forward.work, backward.work, batch.tokens, predicted, flops)


def sequences_of(lengths: list[int], sides_S2: np.ndarray | None) -> Sequences:
    """Sequences of one word; sides: of pairs."""
    ids_T = np.concatenate([np.array([0, *[10] * (length - 2), 2]) for length in lengths])
    numbers = np.arange(len(lengths))
    languages = np.zeros(len(lengths), np.int32)
    return Sequences(ids_T, np.array(lengths), languages, numbers.astype(np.uint64), numbers, sides_S2)
