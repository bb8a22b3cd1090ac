"""The packed decoder is the one of its definition: causal, blind to all sources but its own, and begun as it is told."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.crossing import Crossing, cross
from pipeline.data.packing import Packed, pack
from pipeline.model import decoder_layer
from pipeline.model.attention import attend
from pipeline.model.decoder import Decoder
from pipeline.model.decoder_layer import DecoderLayer, FeedForward
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.settings import text_to_text

VOCAB_SIZE, WIDTH, HEADS = 53, 32, 4
SIZES = EncoderConfig(VOCAB_SIZE, layers=4, hidden=WIDTH, heads=HEADS, feed_forward=48, positions=42, init_std=0.2)
SOURCES, TARGETS = [7, 31, 1, 12], [5, 1, 22, 3, 9, 8]
OWNER_R = np.array([2, 1, 1, 0, 3, 1])  # three targets of one source, and in an order of their own
LAYOUTS = [{"layout": "vanilla"}, {"layout": "interleaved"}]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def sequences(lengths: list[int]) -> list[list[int]]:
    return [torch.randint(4, VOCAB_SIZE, (length,)).tolist() for length in lengths]


def batch(sources: list[list[int]], targets: list[list[int]], owner_R: np.ndarray) -> tuple[Packed, Packed, Crossing]:
    source, target = pack(sources), pack(targets)
    return source, target, cross(source, target, owner_R)


def models(sizes: EncoderConfig = SIZES, layers: int = 2, **settings: Any) -> tuple[Encoder, Decoder]:
    """An encoder and a decoder in fp64 whose biases and norms have weights that tell them from others."""
    encoder = Encoder(sizes)
    decoder = Decoder(encoder, text_to_text.Decoder(layers=layers, **settings))
    pair = nn.ModuleList([encoder, decoder])
    for parameter in pair.parameters():
        nn.init.normal_(parameter.data, mean=float(parameter.mean().detach()), std=0.2)
    pair.double()
    return encoder, decoder


def attention(part: Any, hidden_TD: Tensor, memory_UD: Tensor, sees_TU: Tensor) -> Tensor:
    """The definition, over all tokens of the batch at once and a mask of those that each may see."""

    def by_heads(tensor: Tensor) -> Tensor:
        return tensor.unflatten(1, (HEADS, -1)).transpose(0, 1)

    query, key, value = (
        by_heads(F.linear(hidden, layer.weight, layer.bias))
        for hidden, layer in ((hidden_TD, part.query), (memory_UD, part.key), (memory_UD, part.value))
    )
    score = query @ key.transpose(1, 2) / (WIDTH // HEADS) ** 0.5
    mixed_TD = (score.masked_fill(~sees_TU, -torch.inf).softmax(2) @ value).transpose(0, 1).flatten(1)
    return part.norm(hidden_TD + F.linear(mixed_TD, part.out.weight, part.out.bias))


def feed_forward(part: FeedForward, hidden_TD: Tensor) -> Tensor:
    inner = F.gelu(F.linear(hidden_TD, part.up.weight, part.up.bias))
    fed_TD: Tensor = part.norm(hidden_TD + F.linear(inner, part.down.weight, part.down.bias))
    return fed_TD


def oracle(decoder: Decoder, memory_UD: Tensor, source: Packed, target: Packed, owner_R: np.ndarray) -> Tensor:
    """Logits [T, V] by block-diagonal causal masks, the positions of each target counted from its first token."""
    target_T = torch.repeat_interleave(torch.arange(len(owner_R)), torch.from_numpy(target.sequence_lengths))
    source_U = torch.repeat_interleave(
        torch.arange(len(source.sequence_lengths)), torch.from_numpy(source.sequence_lengths)
    )
    causal_TT = (target_T[:, None] == target_T) & torch.ones(target.tokens, target.tokens).tril().bool()
    own_TU = torch.from_numpy(owner_R)[target_T][:, None] == source_U
    place_T = torch.cat([torch.arange(length) for length in target.sequence_lengths.tolist()]) + 2
    hidden_TD = decoder.word.weight[target.ids_T] + decoder.position.weight[place_T] + decoder.token_type.weight[0]
    hidden_TD = decoder.embedding_norm(hidden_TD)
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        hidden_TD = attention(layer.attention, hidden_TD, hidden_TD, causal_TT)
        if layer.between is not None:
            hidden_TD = feed_forward(layer.between, hidden_TD)
        hidden_TD = attention(layer.cross, hidden_TD, memory_UD, own_TU)
        hidden_TD = feed_forward(layer.feed_forward, hidden_TD)
    head = decoder.head
    hidden_TD = head.norm(F.gelu(F.linear(hidden_TD, head.dense.weight, head.dense.bias)))
    return F.linear(hidden_TD, decoder.word.weight, head.bias)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("settings", [*LAYOUTS, {"embeddings": "own"}], ids=str)
def test_losses_and_gradients_are_those_of_the_definition(settings: dict[str, str], smoothing: float) -> None:
    encoder, decoder = models(**settings)
    source, target, crossing = batch(sequences(SOURCES), sequences(TARGETS), OWNER_R)
    label_T = torch.randint(VOCAB_SIZE, (target.tokens,))
    parameters = list(nn.ModuleList([encoder, decoder]).parameters())
    loss, plain, correct = decoder(encoder(source), source, target, crossing, label_T, smoothing)
    logits_TV = oracle(decoder, encoder(source), source, target, OWNER_R)
    expected = F.cross_entropy(logits_TV, label_T, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(plain, F.cross_entropy(logits_TV.detach(), label_T, reduction="sum"), rtol=1e-12, atol=0)
    assert not plain.requires_grad
    assert int(correct) == int((logits_TV.argmax(1) == label_T).sum())
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("settings", LAYOUTS, ids=str)
@torch.no_grad()
def test_a_token_moves_no_earlier_one_and_no_other_target(settings: dict[str, str]) -> None:
    encoder, decoder = models(**settings)
    sources, targets = sequences(SOURCES), sequences(TARGETS)
    hidden = {}
    for changed in (False, True):
        if changed:
            targets[2][10] = targets[2][10] % 40 + 5
        source, target, crossing = batch(sources, targets, OWNER_R)
        hidden[changed] = decoder.hidden(encoder(source), source, target, crossing)
    moved_T = (hidden[True] != hidden[False]).any(dim=1)
    first = int(target.offsets_S1[2])
    assert moved_T.nonzero().flatten().tolist() == list(range(first + 10, first + 22))


@pytest.mark.parametrize("settings", LAYOUTS, ids=str)
@torch.no_grad()
def test_a_source_moves_all_of_its_targets_and_no_other(settings: dict[str, str]) -> None:
    encoder, decoder = models(**settings)
    source, target, crossing = batch(sequences(SOURCES), sequences(TARGETS), OWNER_R)
    memory_UD = encoder(source)
    before = decoder.hidden(memory_UD, source, target, crossing)
    memory_UD[int(source.offsets_S1[2]) - 1] += 1  # the last token of the second source
    moved_T = (decoder.hidden(memory_UD, source, target, crossing) != before).any(dim=1)
    moved_R = [bool(part.any()) for part in moved_T.split(target.sequence_lengths.tolist())]
    assert moved_R == (OWNER_R == 1).tolist()
    assert all(part.all() or not part.any() for part in moved_T.split(target.sequence_lengths.tolist()))


@torch.no_grad()
def test_targets_that_read_their_sources_in_order_need_no_gathering() -> None:
    encoder, decoder = models()
    lengths = [6, 3, 8, 2]
    source, target, crossing = batch(sequences(SOURCES), sequences(lengths), np.arange(4))
    assert crossing.index_U is None
    memory_UD = encoder(source)
    logits_TV = decoder.head.logits(decoder.hidden(memory_UD, source, target, crossing))
    expected = oracle(decoder, memory_UD, source, target, np.arange(4))
    torch.testing.assert_close(logits_TV, expected, rtol=1e-11, atol=1e-11)


def test_interleaved_layers_that_attend_to_themselves_both_ways_are_twice_as_many_of_the_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = Encoder(SIZES)
    decoder = Decoder(encoder, text_to_text.Decoder(layers=2, layout="interleaved"))
    decoder.begin_as(encoder)
    packed = pack(sequences(TARGETS))
    itself = cross(packed, packed, np.arange(len(TARGETS)))
    monkeypatch.setattr(decoder_layer, "attend", lambda *arguments, causal: attend(*arguments))
    hidden_TD = encoder(packed, layers=0)
    for number, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer) and layer.between is not None
        hidden_TD = layer.between(layer.attention(hidden_TD, packed))
        assert torch.equal(hidden_TD, encoder(packed, layers=2 * number + 1))
        hidden_TD = layer.feed_forward(layer.cross(hidden_TD, hidden_TD, packed, itself))
        assert torch.equal(hidden_TD, encoder(packed, layers=2 * number + 2))


def same_half(layer: DecoderLayer, part: str, encoder: Encoder, number: int) -> bool:
    """Whether a part of a layer has all weights of the same part of the encoder's layer."""
    theirs = encoder.layers[number]
    names = (
        {"up": "up", "down": "down", "norm": "norm"}
        if part in ("between", "feed_forward")
        else {"query": "query", "key": "key", "value": "value", "out": "attention_out", "norm": "attention_norm"}
    )
    own = getattr(layer, part)
    assert {name.split(".")[0] for name in own.state_dict()} == set(names)
    return all(
        torch.equal(getattr(getattr(own, ours), end), getattr(getattr(theirs, name), end))
        for ours, name in names.items()
        for end in ("weight", "bias")
    )


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("cross_attention", ["random", "self"])
def test_a_vanilla_decoder_begins_as_the_lowest_layers(cross_attention: str) -> None:
    encoder, decoder = models(layers=3, cross_attention=cross_attention, embeddings="own")
    decoder.begin_as(encoder)
    for number, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        assert same_half(layer, "attention", encoder, number)
        assert same_half(layer, "feed_forward", encoder, number)
        assert same_half(layer, "cross", encoder, number) is (cross_attention == "self")
    for name in ("word", "position", "token_type", "embedding_norm"):
        assert same(getattr(decoder, name), getattr(encoder, name)), name
    assert decoder.word.weight is not encoder.word.weight
    assert decoder.head.weight is decoder.word.weight


def test_an_interleaved_decoder_begins_with_two_layers_for_each_of_its_own() -> None:
    encoder, decoder = models(layers=2, layout="interleaved")
    decoder.begin_as(encoder)
    for number, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        for part, of in (("attention", 0), ("between", 0), ("cross", 1), ("feed_forward", 1)):
            assert same_half(layer, part, encoder, 2 * number + of), part
    random = set(decoder.state_dict()) - set(decoder.beginnings())
    tables = {"word.weight", "position.weight", "head.weight"}
    assert random - tables == {
        "head.dense.weight",
        "head.dense.bias",
        "head.norm.weight",
        "head.norm.bias",
        "head.bias",
    }


def test_tied_tables_are_the_encoder_s_and_keep_their_weights() -> None:
    encoder = Encoder(SIZES)
    before = [table.weight.detach().clone() for table in (encoder.word, encoder.position)]
    decoder = Decoder(encoder, text_to_text.Decoder(layers=1))
    for ours, theirs, weight in zip(
        (decoder.word, decoder.position), (encoder.word, encoder.position), before, strict=True
    ):
        assert ours.weight is theirs.weight
        assert torch.equal(theirs.weight, weight)
    assert decoder.head.weight is encoder.word.weight


@pytest.mark.parametrize("start", ["encoder", "random"])
def test_the_head_stays_as_it_is_and_all_else_too_where_the_start_is_random(start: str) -> None:
    encoder, decoder = models(start=start)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    decoder.begin_as(encoder)
    unchanged = {name: torch.equal(tensor, before[name]) for name, tensor in decoder.state_dict().items()}
    assert all(same for name, same in unchanged.items() if name.startswith("head."))
    assert all(unchanged.values()) is (start == "random")


@pytest.mark.parametrize(
    ("layers", "layout", "words"),
    [(5, "vanilla", "layers = 5: the encoder has 4 .* at most 4"), (3, "interleaved", "two for each .* at most 2")],
)
def test_too_few_layers_to_begin_with_are_said_in_one_line(layers: int, layout: str, words: str) -> None:
    encoder, decoder = models(layers=layers, layout=layout)
    with pytest.raises(ValueError, match=words) as error:
        decoder.begin_as(encoder)
    assert "\n" not in str(error.value)


def test_a_decoder_of_an_encoder_with_a_position_bias_has_none() -> None:
    sizes = EncoderConfig(VOCAB_SIZE, 2, WIDTH, HEADS, 48, 42, gated_relative=True)
    encoder, decoder = models(sizes)
    decoder.begin_as(encoder)
    source, target, crossing = batch(sequences(SOURCES), sequences(TARGETS), OWNER_R)
    memory_UD = encoder(source)
    logits_TV = decoder.head.logits(decoder.hidden(memory_UD, source, target, crossing))
    torch.testing.assert_close(logits_TV, oracle(decoder, memory_UD, source, target, OWNER_R), rtol=1e-10, atol=1e-10)


def test_dropout_is_for_training_alone() -> None:
    sizes = EncoderConfig(VOCAB_SIZE, 2, WIDTH, HEADS, 48, 42, dropout=0.5)
    encoder, decoder = models(sizes)
    source, target, crossing = batch(sequences(SOURCES), sequences(TARGETS), OWNER_R)
    memory_UD = encoder.eval()(source)
    hidden = partial(decoder.hidden, memory_UD, source, target, crossing)
    assert not torch.equal(hidden(), hidden())
    decoder.eval()
    assert torch.equal(hidden(), hidden())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_near_the_definition(dtype: torch.dtype) -> None:
    encoder, decoder = models()
    source, target, crossing = batch(sequences(SOURCES), sequences(TARGETS), OWNER_R)
    label_T = torch.randint(VOCAB_SIZE, (target.tokens,))
    memory_UD = encoder(source)
    expected, _, _ = decoder(memory_UD, source, target, crossing, label_T, 0.1)
    loss, plain, _ = decoder.to(dtype)(memory_UD.to(dtype), source, target, crossing, label_T, 0.1)
    assert loss.dtype == plain.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=0.02, atol=0)
