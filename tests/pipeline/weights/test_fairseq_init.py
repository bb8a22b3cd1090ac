"""A run starts from fairseq's model.pt, of whatever generation, with the weights that Hugging Face's model has."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from pipeline.data.packing import pack
from pipeline.objectives.catalog import build_objectives
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.added_words import AddedWords
from pipeline.settings.schema import Config
from pipeline.training.build import build_model
from pipeline.weights.opening import open_weights
from pipeline.weights.pretrained import read_pretrained, read_sizes
from pipeline.weights.sentence_projection import TENSOR, ProjectedVectors, load_projection

VOCAB_SIZE, WIDTH, LAYERS, HEADS = 70, 24, 3, 4
POSITIONS = 34
GENERATIONS = ("oldest", "xlmr", "newer")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def theirs() -> XLMRobertaForMaskedLM:
    """A random Hugging Face model in which no two parameters are alike, without the token types that fairseq has not."""
    torch.manual_seed(3)
    config = XLMRobertaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=40,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    model = XLMRobertaForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        model.roberta.embeddings.token_type_embeddings.weight.zero_()
    return model


def fairseq_state(model: XLMRobertaForMaskedLM, generation: str) -> State:
    """What fairseq would have saved, put together module by module."""
    root = "encoder" if generation == "newer" else "decoder"
    norm = "layernorm_embedding" if generation == "newer" else "emb_layer_norm"
    state: State = {}

    def put(name: str, module: Any) -> None:
        state.update({f"{root}.{name}.{kind}": value.clone() for kind, value in module.state_dict().items()})

    embeddings, encoder = model.roberta.embeddings, "sentence_encoder"
    put(f"{encoder}.embed_tokens", embeddings.word_embeddings)
    put(f"{encoder}.embed_positions", embeddings.position_embeddings)
    put(f"{encoder}.{norm}", embeddings.LayerNorm)
    for number, layer in enumerate(model.roberta.encoder.layer):
        place, attention = f"{encoder}.layers.{number}", layer.attention
        projections = [attention.self.query, attention.self.key, attention.self.value]
        if generation == "oldest":
            for kind in ("weight", "bias"):
                fused = torch.cat([getattr(projection, kind).data for projection in projections])
                state[f"{root}.{place}.self_attn.in_proj_{kind}"] = fused
        else:
            for name, projection in zip("qkv", projections, strict=True):
                put(f"{place}.self_attn.{name}_proj", projection)
        put(f"{place}.self_attn.out_proj", attention.output.dense)
        put(f"{place}.self_attn_layer_norm", attention.output.LayerNorm)
        put(f"{place}.fc1", layer.intermediate.dense)
        put(f"{place}.fc2", layer.output.dense)
        put(f"{place}.final_layer_norm", layer.output.LayerNorm)
    put("lm_head.dense", model.lm_head.dense)
    put("lm_head.layer_norm", model.lm_head.layer_norm)
    state[f"{root}.lm_head.weight"] = model.lm_head.decoder.weight.data.clone()
    state[f"{root}.lm_head.bias"] = model.lm_head.bias.data.clone()
    if generation == "newer":
        state[f"{root}.{encoder}.version"] = torch.tensor([3.0])
    return state


def fairseq_content(state: State, generation: str) -> dict[str, Any]:
    arguments = {"arch": "roberta_base", "encoder_attention_heads": HEADS, "activation_fn": "gelu"}
    if generation == "newer":
        return {"args": None, "cfg": {"_name": None, "model": {**arguments, "_name": "roberta"}}, "model": state}
    return {"args": argparse.Namespace(**arguments, adam_betas="(0.9, 0.98)"), "model": state}


@pytest.fixture
def save(theirs: XLMRobertaForMaskedLM, tmp_path: Path) -> Callable[..., Path]:
    """Write a model.pt of one generation after `change` has been made to its content; its path."""

    def write(generation: str = "xlmr", change: Callable[[dict[str, Any]], object] = lambda content: None) -> Path:
        content = fairseq_content(fairseq_state(theirs, generation), generation)
        change(content)
        # The oldest files were written before PyTorch's zip format.
        torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=generation != "oldest")
        return tmp_path / "model.pt"

    return write


def build(init: Path, vocab_size: int = VOCAB_SIZE, block_tokens: int = POSITIONS - 2) -> tuple[PretrainingModel, bool]:
    content = {
        "data": {"path": "data", "block_tokens": block_tokens, "side_tokens": 10},
        "model": {"init": init},
        "objectives": {"dwa": {"alignment_layer": 2}},
        "run": {"out": "run"},
        "deepspeed": "none.json",
    }
    config = Config.model_validate(content)
    return build_model(config, build_objectives(config), AddedWords(vocab_size))


def message_of(init: Path, **settings: int) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the message
        build(init, **settings)
    assert "\n" not in str(caught.value) and str(init) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("generation", GENERATIONS)
@torch.no_grad()
def test_hidden_states_and_logits_equal_hugging_face(
    theirs: XLMRobertaForMaskedLM, save: Callable[..., Path], generation: str
) -> None:
    model, head_is_pretrained = build(save(generation))
    assert head_is_pretrained
    ids = torch.randint(4, VOCAB_SIZE, (POSITIONS - 2,), generator=torch.Generator().manual_seed(0))
    expected = theirs(input_ids=ids[None], output_hidden_states=True)
    states = model.eval().encoder.hidden_states(pack([ids.numpy()]))
    assert len(states) == LAYERS + 1
    for ours_TD, theirs_1TD in zip(states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours_TD, theirs_1TD[0], rtol=0, atol=1e-5)
    head = model.heads["masked_lm"]
    logits_TV = F.linear(head.transform(states[-1]), head.weight, head.bias)
    torch.testing.assert_close(logits_TV, expected.logits[0], rtol=1e-5, atol=1e-5)
    assert head.weight is model.encoder.word.weight


def test_the_folder_of_the_archive_may_be_named(save: Callable[..., Path]) -> None:
    file = save()
    (file.parent / "dict.txt").write_text("▁the 1\n", encoding="utf-8")
    sizes, _, _ = read_pretrained(file.parent, dropout=0.1)
    assert sizes == read_sizes(file, dropout=0.1)
    assert (sizes.layers, sizes.hidden, sizes.heads, sizes.feed_forward) == (LAYERS, WIDTH, HEADS, 40)
    assert (sizes.vocab_size, sizes.positions, sizes.dropout) == (VOCAB_SIZE, POSITIONS, 0.1)


def test_half_precision_weights_are_read_as_fp32(save: Callable[..., Path]) -> None:
    def halve(content: dict[str, Any]) -> None:
        content["model"] = {name: tensor.half() for name, tensor in content["model"].items()}

    model, _ = build(save(change=halve))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_encoder_without_its_head_starts_with_a_random_one(save: Callable[..., Path]) -> None:
    def behead(content: dict[str, Any]) -> None:
        content["model"] = {name: tensor for name, tensor in content["model"].items() if "lm_head" not in name}
        content["model"]["classification_heads.mnli.dense.weight"] = torch.zeros(3, WIDTH)

    _, head_is_pretrained = build(save(change=behead))
    assert not head_is_pretrained


def as_infoxlm(content: dict[str, Any], with_projection: bool = True) -> torch.Tensor:
    """Make of a checkpoint one of InfoXLM's, in which all but the trained model is wrong; its matrix [1, D, D]."""
    own = content["model"]
    arguments = content["args"] or content["cfg"]["model"]
    (vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments)["xlco_layer"] = 2
    matrix_1DD = torch.randn(1, WIDTH, WIDTH, generator=torch.Generator().manual_seed(5))
    content["model"] = {
        "queue": torch.randn(6, WIDTH),
        "enqueue_cnt": torch.tensor([12]),
        "queue_ptr": torch.tensor([3]),
        **{f"model_slow.{name}": torch.full_like(tensor, 7.0) for name, tensor in own.items()},
        **{f"model_fast.{name}": tensor.half() for name, tensor in own.items()},
        **({"proj_matrix_fast": matrix_1DD, "proj_matrix_slow": -matrix_1DD} if with_projection else {}),
    }
    return matrix_1DD


@pytest.mark.parametrize("generation", GENERATIONS)
def test_of_infoxlm_the_trained_model_is_taken_and_the_rest_is_named(
    theirs: XLMRobertaForMaskedLM, save: Callable[..., Path], generation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, head_is_pretrained = build(save(generation, as_infoxlm))
    assert head_is_pretrained
    expected = theirs.roberta.embeddings.word_embeddings.weight
    torch.testing.assert_close(model.encoder.word.weight, expected.half().float(), rtol=0, atol=0)
    (note,) = capsys.readouterr().err.splitlines()
    left = "enqueue_cnt, model_slow, proj_matrix_slow, queue, queue_ptr"
    assert note.endswith(f"is InfoXLM's; model_fast and its projection are taken, left out are {left}")


def test_the_projection_of_infoxlm_is_a_linear_layer_s(save: Callable[..., Path]) -> None:
    made: list[torch.Tensor] = []
    opened = open_weights(save(change=lambda content: made.append(as_infoxlm(content))))
    projection = opened.projection_of(opened.state())
    assert projection is not None and projection.takes == ProjectedVectors(2, "first")
    vectors_SD = torch.randn(4, WIDTH)
    torch.testing.assert_close(F.linear(vectors_SD, projection.weight_DD), vectors_SD @ made[0][0])


def test_infoxlm_without_a_projection_has_none(save: Callable[..., Path]) -> None:
    opened = open_weights(save(change=lambda content: as_infoxlm(content, with_projection=False)))
    assert opened.projection_of(opened.state()) is None
    assert "model_fast is taken, left out are enqueue_cnt, model_slow, queue, queue_ptr" in opened.notes[0]


def test_training_begins_with_the_projection_that_there_is(save: Callable[..., Path]) -> None:
    file = save(change=as_infoxlm)
    state = open_weights(file).state()
    head = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    load_projection(head, state, file)
    assert torch.equal(head.weight, state[TENSOR])
    with pytest.raises(ValueError, match=r"sentence_projection.weight is \[24, 24\], \[8, 24\] is wanted"):
        load_projection(torch.nn.Linear(WIDTH, 8, bias=False), state, file)


class Hostile:
    """Unpickled without care, this touches a file."""

    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._victim), "w")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_hostile_pickle_is_refused_and_nothing_of_it_is_run(
    save: Callable[..., Path], tmp_path: Path, generation: str
) -> None:
    victim = tmp_path / "touched"
    message = message_of(save(generation, lambda content: content.update(extra_state=Hostile(victim))))
    assert "io.open" in message and "could run code" in message and "load it with fairseq and save" in message
    assert not victim.exists()


def test_a_hostile_pytorch_model_bin_is_refused_too(theirs: XLMRobertaForMaskedLM, tmp_path: Path) -> None:
    theirs.config.save_pretrained(tmp_path)
    torch.save({"x": Hostile(tmp_path / "touched")}, tmp_path / "pytorch_model.bin")
    assert "could run code; give model.safetensors" in message_of(tmp_path)
    assert not (tmp_path / "touched").exists()


WORD = "decoder.sentence_encoder.embed_tokens.weight"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["model"].pop(WORD), "lacks embeddings.word_embeddings.weight"),
        (lambda c: c["model"].pop("decoder.sentence_encoder.layers.1.fc1.bias"), "lacks encoder.layer.1.intermediate"),
        (lambda c: c["model"].pop("decoder.lm_head.bias"), "its head lacks lm_head.bias"),
        (lambda c: c["model"].update({"decoder.lm_head.weight": torch.ones(VOCAB_SIZE, WIDTH)}), "only tied heads"),
        (lambda c: c["model"].update({"decoder.lm_head.bias": torch.ones(3)}), "lm_head.bias is [3]"),
        (
            lambda c: c["model"].update({"decoder.sentence_encoder.layers.2.fc2.bias": torch.ones(3)}),
            "encoder.layer.2.output.dense.bias is [3]",
        ),
        (
            lambda c: c["model"].update({"decoder.sentence_encoder.layer_norm.bias": torch.ones(3)}),
            "has decoder.sentence_encoder.layer_norm.bias, which XLM-R has not",
        ),
        (
            lambda c: (as_infoxlm(c), c["model"].update({"proj_matrix_fast": torch.ones(WIDTH, WIDTH)})),
            "proj_matrix_fast is [24, 24], [1, 24, 24] is wanted",
        ),
        (lambda c: (as_infoxlm(c), vars(c["args"]).pop("xlco_layer")), "xlco_layer is 8, the model has 3 layers"),
        (lambda c: c["model"].clear(), "lacks embeddings.word_embeddings.weight"),
        (lambda c: c.pop("model"), "holds no `model` with tensors"),
        (lambda c: c.pop("args"), "lack encoder_attention_heads"),
        (lambda c: setattr(c["args"], "encoder_attention_heads", 5), "= 5 does not divide the width 24"),
        (lambda c: setattr(c["args"], "activation_fn", "relu"), "only gelu is built"),
    ],
)
def test_another_model_is_refused_in_one_line(
    save: Callable[..., Path], change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    assert expected in message_of(save(change=change))


def test_another_vocabulary_or_too_few_positions_are_refused(save: Callable[..., Path]) -> None:
    file = save()
    assert f"vocabulary of {VOCAB_SIZE}, the token files" in message_of(file, vocab_size=VOCAB_SIZE + 1)
    assert f"{POSITIONS - 2} positions" in message_of(file, block_tokens=POSITIONS - 1)


@pytest.mark.parametrize("left", [0, 10, 3000])
def test_a_damaged_or_missing_file_is_refused(save: Callable[..., Path], left: int) -> None:
    file = save()
    file.write_bytes(file.read_bytes()[:left])
    assert message_of(file)
    file.unlink()
    assert "cannot be read" in message_of(file)
