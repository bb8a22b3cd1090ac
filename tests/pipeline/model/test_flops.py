"""The counted operations are those that PyTorch's own counter sees in a step without padding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data.batch import MicroBatch, View
from pipeline.data.crossing import cross
from pipeline.data.packing import pack
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.model.decoder import Decoder
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.flops import decoder_flops, encoder_forward_flops
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings import text_to_text
from pipeline.settings.added_words import AddedWords
from pipeline.settings.sizes import decoder_parameters
from pipeline.watch.hardware import peak_flops

VOCAB_SIZE = 64
counted_attention = partial(sdpa_kernel, SDPBackend.MATH)  # the counter does not know the CPU's flash attention


@pytest.mark.parametrize("layers", [1, 3])
def test_a_forward_of_the_encoder_is_counted_exactly(sizes: EncoderConfig, layers: int) -> None:
    packed = pack([[4] * 30] * 5)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), counted_attention():
        Encoder(sizes)(packed, layers)
    assert encoder_forward_flops(sizes, packed.sequence_lengths, layers) == counter.get_total_flops()


def test_forward_and_backward_of_a_micro_step_are_counted(
    sizes: EncoderConfig, make_sequences: Callable[..., Sequences]
) -> None:
    model = PretrainingModel(Encoder(sizes), [MaskedLM("mlm", "mono")])
    batch = MicroBatch({"mono": collate(make_sequences([40] * 6), 1, AddedWords(VOCAB_SIZE), [View("mono", "masked")])})
    with FlopCounterMode(display=False) as counter, counted_attention():
        model("losses", batch, {"mlm": {}})["mlm"]["loss"].backward()
    assert model.flops(batch) == counter.get_total_flops()


@pytest.mark.parametrize("layout", ["vanilla", "interleaved"])
@pytest.mark.parametrize("embeddings", ["tied", "own"])
def test_a_decoder_s_operations_and_parameters_are_counted(sizes: EncoderConfig, layout: str, embeddings: str) -> None:
    encoder = Encoder(sizes)
    settings = text_to_text.Decoder(layers=2, layout=layout, embeddings=embeddings)
    decoder = Decoder(encoder, settings)
    own = set(decoder.parameters()) - set(encoder.parameters())
    assert sum(parameter.numel() for parameter in own) == decoder_parameters(settings, sizes)
    source, target, owner_R = pack([[4] * 20] * 3), pack([[4] * 10] * 4), np.array([2, 0, 0, 1])
    memory_UD = encoder(source).detach().requires_grad_()
    crossing, label_T = cross(source, target, owner_R), torch.full((40,), 5)
    with FlopCounterMode(display=False) as counter, counted_attention():
        decoder(memory_UD, source, target, crossing, label_T)[0].backward()
    later = (
        3 * settings.layers * 4 * sizes.hidden * 4 * (10 * 10 - 10 * 11 / 2)
    )  # masked ones, which the counter counts
    found = decoder_flops(settings, sizes, source.sequence_lengths, target.sequence_lengths, owner_R)
    assert found == counter.get_total_flops() - later


def test_two_sequences_cost_less_attention_than_one_of_their_length(sizes: EncoderConfig) -> None:
    two, one = pack([[4] * 20] * 2), pack([[4] * 40])
    difference = encoder_forward_flops(sizes, one.sequence_lengths, 1) - encoder_forward_flops(
        sizes, two.sequence_lengths, 1
    )
    assert difference == 4 * sizes.hidden * (40**2 - 2 * 20**2)


def test_a_cpu_has_no_listed_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
