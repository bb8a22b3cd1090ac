"""The packed encoder computes what Hugging Face's padded XLM-R computes, and sequences in a batch do not see each other."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from pipeline.data.batch import MicroBatch, View
from pipeline.data.packing import FIRST_POSITION, join, pack
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.objectives.base import LabelTensors
from pipeline.objectives.masked_lm import MaskedLM, MaskedLMHead
from pipeline.objectives.pretraining_model import MicroStepEncoder, PretrainingModel
from pipeline.settings.added_words import AddedWords
from pipeline.weights.hugging_face import (
    build_encoder,
    hugging_face_state,
    load_head,
    read_config,
    read_state,
    write_config,
)

VOCAB_SIZE, LAYERS = 50, 3
NO_LABELS: dict[str, LabelTensors] = {"mlm": {}, "tlm": {}}
RAGGED = [7, 40, 1, 12, 13, 2, 39, 1, 25]
EVERY_LENGTH = [int(length) for length in np.random.default_rng(0).permutation(np.arange(1, 41))]


def random_sequences(lengths: list[int]) -> list[np.ndarray]:
    draw = np.random.default_rng(len(lengths))
    return [draw.integers(4, VOCAB_SIZE, length) for length in lengths]


@pytest.fixture(scope="module")
def theirs() -> XLMRobertaForMaskedLM:
    """A tiny Hugging Face model in which no parameter is 0 or 1, so that none can be mistaken for another."""
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=42,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = XLMRobertaForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def folder(theirs: XLMRobertaForMaskedLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hugging_face")
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return build_encoder(read_config(folder), read_state(folder), folder).eval()


@torch.no_grad()
def padded_outputs(model: XLMRobertaForMaskedLM, sequences: list[np.ndarray]) -> tuple[list[Tensor], Tensor]:
    """Hidden states [T, D] per layer and logits [T, V] of the real tokens of a padded batch."""
    longest = max(len(ids) for ids in sequences)
    ids_BL = torch.tensor([[*ids, *[1] * (longest - len(ids))] for ids in sequences])
    real_BL = ids_BL != 1
    output = model(input_ids=ids_BL, attention_mask=real_BL.long(), output_hidden_states=True)
    return [hidden_BLD[real_BL] for hidden_BLD in output.hidden_states], output.logits[real_BL]


@pytest.mark.parametrize("lengths", [EVERY_LENGTH, RAGGED, [5, 5, 5], [1], [40]], ids=str)
@torch.no_grad()
def test_hidden_states_of_every_layer_equal_hugging_face(
    theirs: XLMRobertaForMaskedLM, encoder: Encoder, lengths: list[int]
) -> None:
    sequences = random_sequences(lengths)
    expected, _ = padded_outputs(theirs, sequences)
    ours = encoder.hidden_states(pack(sequences))
    assert len(ours) == len(expected) == LAYERS + 1
    for layer, (our_TD, their_TD) in enumerate(zip(ours, expected, strict=True)):
        torch.testing.assert_close(our_TD, their_TD, rtol=0, atol=1e-5, msg=lambda m, k=layer: f"layer {k}: {m}")


@torch.no_grad()
def test_fewer_layers_are_the_first_ones(encoder: Encoder) -> None:
    packed = pack(random_sequences(RAGGED))
    states = encoder.hidden_states(packed)
    for layers in range(LAYERS + 1):
        assert torch.equal(encoder(packed, layers), states[layers])
    assert torch.equal(encoder(packed), states[-1])


def new_head(encoder: Encoder) -> MaskedLMHead:
    head = MaskedLM("mlm", "mono").modules(SimpleNamespace(encoder=encoder))["masked_lm"].build()
    assert isinstance(head, MaskedLMHead)
    return head


@torch.no_grad()
def test_masked_lm_logits_equal_hugging_face(theirs: XLMRobertaForMaskedLM, encoder: Encoder, folder: Path) -> None:
    sequences = random_sequences(RAGGED)
    _, expected_TV = padded_outputs(theirs, sequences)
    head = new_head(encoder)
    assert load_head(head, read_state(folder), folder)
    ours_TV = F.linear(head.transform(encoder(pack(sequences))), head.weight, head.bias)
    torch.testing.assert_close(ours_TV, expected_TV, rtol=0, atol=5e-5)


def test_a_state_without_head_leaves_the_head_alone(encoder: Encoder, folder: Path) -> None:
    state = {name: tensor for name, tensor in read_state(folder).items() if "dense.bias" not in name}
    head = new_head(encoder)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    assert not load_head(head, state, folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


@torch.no_grad()
def test_round_trip_through_hugging_face_names_is_exact(sizes: EncoderConfig) -> None:
    model = PretrainingModel(Encoder(sizes), [MaskedLM("mlm", "mono")]).eval()
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    theirs = XLMRobertaForMaskedLM(XLMRobertaConfig(**write_config(sizes))).eval()
    theirs.load_state_dict(hugging_face_state(model.encoder.state_dict(), model.heads["masked_lm"].state_dict()))
    sequences = random_sequences(RAGGED)
    _, expected_TV = padded_outputs(theirs, sequences)
    head = model.heads["masked_lm"]
    ours_TV = F.linear(head.transform(model.encoder(pack(sequences))), head.weight, head.bias)
    torch.testing.assert_close(ours_TV, expected_TV, rtol=0, atol=5e-5)


def test_saved_and_loaded_again_every_weight_is_the_same(encoder: Encoder, folder: Path) -> None:
    head = new_head(encoder)
    load_head(head, read_state(folder), folder)
    state = hugging_face_state(encoder.state_dict(), head.state_dict())
    saved = read_state(folder)
    assert saved.keys() <= state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())


@torch.no_grad()
def test_changing_one_sequence_leaves_the_others_alone(encoder: Encoder) -> None:
    sequences = random_sequences(RAGGED)
    before, changed = pack(sequences), list(sequences)
    for number in range(len(sequences)):
        changed[number] = (sequences[number] - 4 + 17) % (VOCAB_SIZE - 4) + 4
        after = pack(changed)
        begin, end = before.offsets_S1[number : number + 2]
        other_T = np.ones(before.tokens, dtype=bool)
        other_T[begin:end] = False
        was_TD, now_TD = encoder(before), encoder(after)
        assert torch.equal(now_TD[other_T], was_TD[other_T])
        assert not torch.allclose(now_TD[begin:end], was_TD[begin:end], atol=1e-2)
        changed[number] = sequences[number]


@torch.no_grad()
def test_a_sequence_has_the_same_hidden_states_in_any_company(encoder: Encoder) -> None:
    sequences = random_sequences(EVERY_LENGTH)
    packed = pack(sequences)
    together_TD = encoder(packed)
    for number, ids in enumerate(sequences):
        begin, end = packed.offsets_S1[number : number + 2]
        torch.testing.assert_close(encoder(pack([ids])), together_TD[begin:end], rtol=0, atol=1e-5)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_groups_hold_every_token_once_with_little_padding(lengths: list[int]) -> None:
    packed = pack([np.full(length, 4) for length in lengths])
    laid_out = torch.cat([group.index_GL.flatten() for group in packed.groups])
    assert torch.equal(laid_out[packed.place_T], torch.arange(sum(lengths)))
    assert packed.laid_out == len(laid_out)
    real = 0
    for group in packed.groups:
        size, longest = group.index_GL.shape
        real_GL = torch.ones(size, 1, 1, longest, dtype=torch.bool) if group.mask_G11L is None else group.mask_G11L
        lengths_G = real_GL.sum(-1).flatten()
        assert int(lengths_G.max()) == longest <= 1.25 * int(lengths_G.min()) + 8
        real += int(real_GL.sum())
    assert real == sum(lengths)


def test_positions_start_anew_in_every_sequence() -> None:
    packed = pack([[4, 5, 6], [7], [8, 9]])
    assert packed.offsets_S1.tolist() == [0, 3, 4, 6]
    assert (packed.positions_T - FIRST_POSITION).tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.ids_T.tolist() == [4, 5, 6, 7, 8, 9] and packed.tokens == 6


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(AssertionError, match="empty"):
        pack([[4], []])


def test_a_batch_that_two_objectives_read_is_encoded_once(
    sizes: EncoderConfig, make_sequences: Callable[..., Sequences]
) -> None:
    model = PretrainingModel(Encoder(sizes), [MaskedLM("first", "mono"), MaskedLM("second", "mono")])
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    batch = MicroBatch(
        {"mono": collate(make_sequences([30, 40]), 1, AddedWords(sizes.vocab_size), [View("mono", "masked")])}
    )
    terms = model("losses", batch, {"first": {}, "second": {}})
    assert len(calls) == 1 and torch.equal(terms["first"]["loss"], terms["second"]["loss"])


def test_the_streams_of_a_micro_step_are_encoded_in_one_pass(
    sizes: EncoderConfig, make_sequences: Callable[..., Sequences]
) -> None:
    model = PretrainingModel(Encoder(sizes), [MaskedLM("mlm", "mono"), MaskedLM("tlm", "pairs")])
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda module, given, output: seen.append(given[0].tokens))
    mono = collate(make_sequences([30, 40]), 1, AddedWords(sizes.vocab_size), [View("mono", "masked")])
    pairs = collate(make_sequences([9, 4, 20], [5, 8, 11]), 1, AddedWords(sizes.vocab_size), [View("pairs", "masked")])
    together = model("losses", MicroBatch({"mono": mono, "pairs": pairs}), NO_LABELS)
    assert seen == [mono.clean.tokens + pairs.clean.tokens]
    for name, stream in (("mono", mono), ("pairs", pairs)):
        (alone,) = model("losses", MicroBatch({name: stream}), NO_LABELS).values()
        torch.testing.assert_close(together[{"mono": "mlm", "pairs": "tlm"}[name]]["loss"], alone["loss"])


def test_joined_batches_are_the_batch_of_all_their_sequences(encoder: Encoder) -> None:
    sequences = random_sequences(RAGGED)
    whole, parts = pack(sequences), [pack(sequences[:4]), pack(sequences[4:5]), pack(sequences[5:])]
    joined = join(parts)
    assert torch.equal(joined.ids_T, whole.ids_T) and torch.equal(joined.positions_T, whole.positions_T)
    assert joined.offsets_S1.tolist() == whole.offsets_S1.tolist()
    assert torch.equal(joined.bounds_S1, whole.bounds_S1) and joined.longest == whole.longest
    # Other groups of like lengths, so that fp32 products would round otherwise.
    exact = copy.deepcopy(encoder).double()
    torch.testing.assert_close(exact(joined), exact(whole), rtol=0, atol=1e-12)


@torch.no_grad()
def test_batches_that_no_longer_exist_are_not_mistaken_for_new_ones(sizes: EncoderConfig) -> None:
    encoder = Encoder(sizes).eval()
    encode = MicroStepEncoder(encoder)
    for token in range(4, 60):
        # Each packed batch is dropped after use, so that the next one may come to lie at its address.
        assert torch.equal(encode(pack([[token]])), encoder(pack([[token]])))


@torch.no_grad()
def test_hidden_work_returns_every_layer_up_to_the_one_asked_for(sizes: EncoderConfig) -> None:
    model = PretrainingModel(Encoder(sizes), [MaskedLM("mlm", "mono")]).eval()
    packed = pack([[4, 5, 6], [7]])
    hidden = model("hidden", packed, layers=2)["hidden"]
    assert list(hidden) == ["0", "1", "2"]
    assert torch.equal(hidden["2"], model.encoder(packed, 2))


def test_dropout_is_active_in_training_only(sizes: EncoderConfig) -> None:
    encoder = Encoder(EncoderConfig(**{**vars(sizes), "dropout": 0.5}))
    packed = pack([[4, 5, 6], [7]])
    assert not torch.equal(encoder(packed), encoder(packed))
    encoder.eval()
    assert torch.equal(encoder(packed), encoder(packed))


def test_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.hidden = 30 is not a multiple of model\.heads = 4"):
        EncoderConfig(hidden=30, heads=4)


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_new_weights_have_the_spread_of_the_config_and_padding_rows_are_zero(std: float) -> None:
    encoder = Encoder(EncoderConfig(500, layers=1, hidden=64, heads=2, feed_forward=64, positions=66, init_std=std))
    assert abs(float(encoder.word.weight[2:].std()) / std - 1) < 0.05
    assert abs(float(encoder.layers[0].query.weight.std()) / std - 1) < 0.05
    assert not encoder.word.weight[1].any() and not encoder.position.weight[1].any()


def test_a_layout_is_made_for_a_device_when_an_attention_asks_and_never_copied_with_a_batch() -> None:
    packed, copied = pack([[0, 5, 2], [0, 5, 6, 7, 2]]), list[Tensor]()

    def copy(tensor: Tensor) -> Tensor:
        copied.append(tensor)
        return tensor.clone()

    other = packed.map(copy)
    assert len(copied) == 3 and other.layout is packed.layout
    assert other.with_ids(packed.ids_T).groups is packed.groups
    joined = join([packed, other])
    assert torch.equal(joined.place_T, torch.cat([packed.place_T, packed.place_T + packed.laid_out]))
