"""Hugging Face folders as they are found: what Transformers' AutoModel loads gives its hidden states here, or is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer
from pipeline.align.aligner import Aligner
from pipeline.data.packing import pack
from pipeline.model.encoder import EncoderConfig
from pipeline.weights.hugging_face_tokenizer import save_tokenizer
from pipeline.weights.loading import load_masked_lm, load_model
from pipeline.weights.opening import WANTED
from pipeline.weights.pretrained import check_tokenizer, check_vocabulary, read_pretrained
from tests.pipeline.conftest import Done
from tests.pipeline.run_kit import other_tokenizer

Use = Callable[..., Done]
IDS = [0, 5, 6, 7, 8, 2]


@pytest.fixture
def folder(hf_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(hf_dir, tmp_path / "hf")
    return tmp_path / "hf"


def change_config(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def change_state(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file({name: t.contiguous() for name, t in change(load_file(path)).items()}, path, metadata={"format": "pt"})


@torch.no_grad()
def assert_as_transformers(folder: Path) -> None:
    """Hidden states of every layer equal AutoModel's."""
    theirs = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    expected = theirs(torch.tensor([IDS]), output_hidden_states=True).hidden_states
    ours = load_model(folder)[0].hidden_states(pack([IDS]))
    for our_TD, their_BTD in zip(ours, expected, strict=True):
        torch.testing.assert_close(our_TD, their_BTD[0], rtol=0, atol=1e-5)


def as_shards_of_pickles(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    files = {name: f"pytorch_model-0000{1 + at % 2}-of-00002.bin" for at, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: state[name] for name in names if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files}), encoding="utf-8"
    )


def as_one_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_names_of_bert(folder: Path) -> None:
    def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
        for old, new in (("weight", "gamma"), ("bias", "beta")):
            state = {name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}"): tensor for name, tensor in state.items()}
        return state

    change_state(folder, rename)


def with_two_token_types(folder: Path) -> None:
    name = "roberta.embeddings.token_type_embeddings.weight"
    change_state(folder, lambda state: state | {name: torch.cat([state[name], torch.ones_like(state[name])])})
    change_config(folder, type_vocab_size=2)


def without_prefix(folder: Path) -> None:
    change_state(folder, lambda state: {name.removeprefix("roberta."): tensor for name, tensor in state.items()})
    change_config(folder, architectures=["XLMRobertaModel"])


FOLDERS: dict[str, Callable[[Path], None]] = {
    "as it is": lambda folder: None,
    "shards of pickles with an index": as_shards_of_pickles,
    "one pickle": as_one_pickle,
    "gamma and beta": with_names_of_bert,
    "no layer_norm_eps": lambda folder: change_config(folder, layer_norm_eps=None),
    "two token types": with_two_token_types,
    "no prefix": without_prefix,
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_hidden_states_are_those_of_transformers(folder: Path, kind: str) -> None:
    FOLDERS[kind](folder)
    if kind == "gamma and beta":  # which Transformers 5 has ceased to read
        ours = load_model(folder)[0].hidden_states(pack([IDS]))
        change_state(folder, lambda s: {n.replace("gamma", "weight").replace("beta", "bias"): t for n, t in s.items()})
        assert all(
            torch.equal(a, b) for a, b in zip(ours, load_model(folder)[0].hidden_states(pack([IDS])), strict=True)
        )
    assert_as_transformers(folder)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "padding": ({"pad_token_id": 0}, "pad_token_id is 0, only 1 is built"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    "decoder": ({"is_decoder": True}, "is_decoder is True"),
    "activation": ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    "other model": ({"model_type": "gpt2"}, "model_type 'gpt2' is a decoder; give an encoder"),
    "words": ({"vocab_size": "many"}, "vocab_size is 'many', not a number above 0"),
    "layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "record": ({"xlm_align": {"layer": "high"}}, "config.json: xlm_align.layer is 'high'"),
    "fewer layers": ({"num_hidden_layers": 2}, "num_hidden_layers is 2, its weights have 3 layers"),
    "more layers": ({"num_hidden_layers": 4}, "num_hidden_layers is 4, its weights have 3 layers"),
    "ever more layers": ({"num_hidden_layers": 2**23}, "num_hidden_layers is 8388608, its weights have 3"),
    "heads": ({"num_attention_heads": 3}, "is not a multiple of"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_give_other_hidden_states_is_refused(use: Use, folder: Path, kind: str) -> None:
    changes, message = REFUSED[kind]
    change_config(folder, **changes)
    done = use("align", folder, "-", stdin=b"a ||| b\n")
    assert done.code == 1 and f"{folder}" in done.error and message in done.error and not done.out


SIZES = ("vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
WRONG: dict[str, list[Any]] = {
    **{name: [[], {}, "8", True, -1, 0, 1.5, 10**30, 10**400] for name in (*SIZES, "max_position_embeddings")},
    "layer_norm_eps": ["x", float("nan"), float("inf"), 0, True],
    "initializer_range": ["x", [], float("nan"), -1.0, True],
    "hidden_dropout_prob": ["x", [], float("nan"), 1, True],
    "attention_probs_dropout_prob": [{}, -0.1],
    "tie_word_embeddings": ["no", 0, [], 1.5],
    "hidden_act": [[], {}, 3],
    "pad_token_id": ["1", [1]],
    "model_type": [[], {}, 3],
    "xlm_align": [
        3,
        [],
        "x",
        {"layer": True},
        {"tokenizer": 3},
        {"tokenizer": {"sha256": 3}},
        {"tokenizer": {"sha256": []}},
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_types_in_config_json_are_one_line_each(folder: Path, name: str) -> None:
    for value in WRONG[name]:
        change_config(folder, **{name: value})
        with pytest.raises(ValueError, match=name) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value), value


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model_type": ' * 100_000, "\x00", "[]", "3"])
def test_a_config_json_that_is_none_is_one_line(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json: (not valid JSON|model_type is None)"):
        load_model(folder)


def untie(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=False)
    name = "roberta.embeddings.word_embeddings.weight"
    more = "lm_head.decoder.weight"
    change_state(
        folder, lambda state: state | {more: state[name] + 1.0, "lm_head.decoder.bias": state["lm_head.bias"].clone()}
    )


def test_an_output_layer_of_its_own_is_refused_where_it_counts(folder: Path, tmp_path: Path) -> None:
    untie(folder)
    with pytest.raises(ValueError, match="its output layer is not tied to the word embeddings"):
        load_masked_lm(folder)
    assert_as_transformers(folder)
    change_config(folder, tie_word_embeddings=True)
    load_masked_lm(folder)


@pytest.mark.parametrize("damage", ["missing shard", "path outside", "no json"])
def test_a_damaged_index_is_one_line(use: Use, folder: Path, damage: str) -> None:
    as_shards_of_pickles(folder)
    index = folder / "pytorch_model.bin.index.json"
    if damage == "missing shard":
        (folder / "pytorch_model-00002-of-00002.bin").unlink()
    else:
        weights = {"weight_map": {"a": "../../elsewhere.bin"}}
        index.write_text(json.dumps(weights) if damage == "path outside" else "{", encoding="utf-8")
    message = {"missing shard": "00002-of-00002.bin: no such file", "path outside": "must lie beside it"}
    done = use("align", folder, "-", stdin=b"a ||| b\n")
    assert done.code == 1 and message.get(damage, "index.json: damaged") in done.error


def test_a_pickle_that_runs_code_is_not_run(use: Use, folder: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Harm()}))
    done = use("align", folder, "-", stdin=b"a ||| b\n")
    assert done.code == 1 and "pytorch_model.bin: " in done.error and not (tmp_path / "harm").exists()


def widen(folder: Path, rows: int) -> None:
    def more(state: dict[str, Tensor]) -> dict[str, Tensor]:
        words = "roberta.embeddings.word_embeddings.weight"
        return state | {
            words: torch.cat([state[words], torch.zeros(rows, state[words].shape[1])]),
            "lm_head.bias": torch.cat([state["lm_head.bias"], torch.zeros(rows)]),
        }

    change_state(folder, more)
    change_config(
        folder, vocab_size=json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"] + rows
    )


def add_words(folder: Path, how: str) -> None:
    known = Tokenizer.load(folder).vocab_size
    words = {"<en>": known, "<de>": known + 1}
    if how == "added_tokens.json":
        (folder / how).write_text(json.dumps(words), encoding="utf-8")
        return
    tokenizer = Tokenizer.load(folder)
    save_tokenizer(tokenizer, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] += [{"id": number, "content": word, **flags} for word, number in words.items()]
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / MODEL_NAME).unlink()


def test_a_padded_vocabulary_is_known(folder: Path, hf_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = Tokenizer.load(folder).vocab_size
    rows = -known % 8 or 8
    pairs = [("the quick brown fox", "der schnelle braune fuchs")]
    expected = Aligner.load(folder).align_scored(pairs)
    widen(folder, rows)
    assert Aligner.load(folder).align_scored(pairs) == expected
    assert f"the vocabulary's last {rows} rows are padding" in capsys.readouterr().err
    check_vocabulary(folder, known + rows, Path("data"), known)
    assert read_pretrained(folder, 0.0)[0].vocab_size == known + rows


@pytest.mark.parametrize("how", ["added_tokens.json", "tokenizer.json"])
def test_added_words_are_told_of_and_cannot_be_trained_with(
    folder: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Tokenizer.load(folder).vocab_size
    widen(folder, 2)
    with pytest.raises(ValueError, match=rf"the model has {known + 2} words, its tokenizer {known}"):
        load_model(folder)
    add_words(folder, how)
    pairs = [("the <en> fox", "der fuchs")]
    assert Aligner.load(folder).align(pairs)[0]
    assert "<en>, <de>: words that were added to the tokenizer are encoded as other words" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"has added words \(<en>, <de>\), which token files cannot hold"):
        check_vocabulary(folder, known + 2, Path("data"), known)


def test_a_model_of_another_vocabulary_cannot_be_trained_with(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"vocabulary of 52, the token files in data.path = data have 30; binarize with"
    ):
        check_vocabulary(folder, 52, Path("data"), 30)
    with pytest.raises(ValueError, match=r"vocabulary of 30, the token files in data.path = data have 52"):
        check_vocabulary(folder, 30, Path("data"), 52)


def manifest_of(tokenizer: Tokenizer, data_dir: Path) -> Manifest:
    tokenizer.save(data_dir / "tokenizer")
    return Manifest(data_dir, tokenizer.sha256, tokenizer.vocab_size, {}, {}, [], "0" * 64)


def test_a_model_whose_tokenizer_is_not_the_data_s_cannot_be_trained_with(folder: Path, tmp_path: Path) -> None:
    own = Tokenizer.load(folder)
    other = other_tokenizer(own)
    assert other.vocab_size == own.vocab_size, "so that the size tells nothing"
    right, wrong = manifest_of(own, tmp_path / "right"), manifest_of(other, tmp_path / "wrong")
    message = r"model.init = .*hf: .* is another tokenizer than that of data.path = .*wrong.*tokenizer import"
    assert check_tokenizer(folder, right) == [] == check_tokenizer(None, wrong)
    with pytest.raises(ValueError, match=message):
        check_tokenizer(folder, wrong)
    save_tokenizer(own, folder)
    (folder / MODEL_NAME).unlink()
    assert check_tokenizer(folder, right) == [], "by tokenizer.json alone"
    with pytest.raises(ValueError, match=message):
        check_tokenizer(folder, wrong)
    (folder / "tokenizer.json").unlink()
    assert "cannot be checked" in check_tokenizer(folder, wrong)[0]


def test_a_folder_with_a_tokenizer_json_alone_is_aligned_with(use: Use, folder: Path) -> None:
    (folder / "pairs").write_text("the quick brown fox ||| der schnelle braune fuchs\n", encoding="utf-8")
    expected = use("align", folder, folder / "pairs").out
    save_tokenizer(Tokenizer.load(folder), folder)
    (folder / MODEL_NAME).unlink()
    done = use("align", folder, folder / "pairs")
    assert (done.code, done.out) == (0, expected)
    assert expected


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "nowhere",
            f"nowhere: no such folder; {WANTED}",
        ),
        ("file", "file: is a file; give a Hugging Face model folder"),
        (
            "empty",
            f"empty: holds no model (neither config.json, model.pt nor checkpoints/); {WANTED}",
        ),
    ],
)
def test_how_to_get_a_model_is_told_where_there_is_none(use: Use, tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    done = use("align", tmp_path / place, "-")
    assert done.code == 1 and message in done.error


def test_sizes_that_config_leaves_out_are_those_of_transformers(folder: Path) -> None:
    change_config(folder, num_attention_heads=None, layer_norm_eps=None)
    with pytest.raises(ValueError, match="not a multiple"):
        load_model(folder)
    assert EncoderConfig().heads == 12
