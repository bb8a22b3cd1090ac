"""Encoders of other architectures: hidden states are Transformers' own, links SimAlign's; what cannot be used is told."""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from pipeline.align.aligner import Aligner
from pipeline.data.packing import pack
from pipeline.model.transformers_encoder import TransformersEncoder
from pipeline.weights.loading import load
from tests.pipeline.conftest import Done
from tests.pipeline.transformers_kit import (
    ARCHITECTURES,
    LAYERS,
    POSITIONS,
    SPECIALS,
    UNKNOWN,
    reference_model,
    word_piece,
    write_folder,
    write_tokenizer,
)

Use = Callable[..., Done]
PAIRS = [
    ("the quick brown fox", "der schnelle braune fuchs"),
    ("pack my box with five dozen liquor jugs", "über den hund"),
    ("judge", "my vow of black quartz ,"),
    ("lazy dog jumps 7 times", "faulen hund springt"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = write_folder(name, tmp_path_factory.mktemp("model"))
        return made[name]

    return folder


@torch.no_grad()
def states_of(model: Any, **inputs: list[int]) -> list[torch.Tensor]:
    """Hidden states [L, D] of one sequence after every layer, by Transformers alone."""
    batch = {name: torch.tensor([ids]) for name, ids in inputs.items()}
    return [state[0] for state in model(**batch, output_hidden_states=True).hidden_states]


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_hidden_states_are_those_of_transformers_at_every_layer(folders: Callable[[str], Path], name: str) -> None:
    loaded, model = load(folders(name)), reference_model(folders(name))
    assert isinstance(loaded.encoder, TransformersEncoder) and loaded.encoder.config.layers == LAYERS
    longest = loaded.encoder.config.longest
    assert longest == (512 if name == "T5" else POSITIONS - {"RoBERTa": 1, "XLM-R XL": 1, "MPNet": 2}.get(name, 0))
    sequences = [torch.randint(5, 40, (length,)).tolist() for length in (3, 30, min(longest, POSITIONS), 1, 12, 4)]
    packed = pack(sequences)
    found = loaded.encoder.hidden_states(packed)
    assert len(found) == LAYERS + 1
    for start, ids in zip(packed.offsets_S1, sequences, strict=False):
        for ours_TD, theirs_LD in zip(found, states_of(model, input_ids=ids), strict=True):
            torch.testing.assert_close(ours_TD[start : start + len(ids)], theirs_LD, atol=1e-5, rtol=1e-5)
    for layer in range(LAYERS + 1):
        torch.testing.assert_close(loaded.encoder(packed, layer), found[layer], atol=0, rtol=0)
        assert len(loaded.encoder.hidden_states(packed, layer)) == layer + 1


@pytest.mark.parametrize(
    ("name", "kept"), [("BERT", [1, 1, 2, 3]), ("ModernBERT", [1, 2, 3, 3]), ("XLM", [3, 3, 3, 3])]
)
def test_layers_above_the_wanted_one_are_not_run(folders: Callable[[str], Path], name: str, kept: list[int]) -> None:
    encoder: Any = load(folders(name)).encoder
    ran: list[int] = []
    layers = next(module for module in encoder.model.modules() if isinstance(module, torch.nn.ModuleList))
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    for layer in range(LAYERS + 1):
        encoder(pack([[5, 6]]), layer)
        ran.clear()
        encoder(pack([[5, 6]]), layer)
        assert len(ran) == kept[layer]


def pieces(tokenizer: Any, words: Sequence[str], space: bool) -> tuple[list[int], list[int]]:
    ids = [tokenizer(f" {word}" if space else word, add_special_tokens=False)["input_ids"] for word in words]
    return [i for of_word in ids for i in of_word], [at for at, of_word in enumerate(ids) for _ in of_word]


def inter(source_MD: np.ndarray, target_ND: np.ndarray) -> set[tuple[int, int]]:
    """SimAlign's `inter`: cells that are the largest of their row and of their column."""
    source_MD = source_MD / np.linalg.norm(source_MD, axis=1, keepdims=True)
    target_ND = target_ND / np.linalg.norm(target_ND, axis=1, keepdims=True)
    similarity_MN = source_MD @ target_ND.T
    forward, backward = similarity_MN.argmax(axis=1), similarity_MN.argmax(axis=0)
    return {(i, int(j)) for i, j in enumerate(forward) if backward[j] == i}


def simalign(folder: Path, layer: int, pair: tuple[str, str], space: bool) -> list[tuple[int, int]]:
    """SimAlign's algorithm on a folder: each sentence alone, mutual argmax of subwords, links of their words."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), reference_model(folder)
    sides = []
    for text in pair:
        ids, words = pieces(tokenizer, text.split(), space)
        states = states_of(model, input_ids=[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id])[layer]
        sides.append((states[1:-1].numpy(), words))
    (source_MD, of_source), (target_ND, of_target) = sides
    return sorted({(of_source[i], of_target[j]) for i, j in inter(source_MD, target_ND)})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_argmax_gives_the_links_of_simalign(folders: Callable[[str], Path], name: str) -> None:
    aligner = Aligner.load(folders(name), 2, method="argmax", encoding="separate", device="cpu")
    space = name in ("RoBERTa", "ModernBERT", "mmBERT", "EuroBERT")
    expected = [simalign(folders(name), 2, pair, space) for pair in PAIRS]
    assert aligner.align(PAIRS) == expected and any(expected)


@pytest.mark.parametrize(("name", "types"), [("BERT", True), ("RoBERTa", False), ("mDeBERTa", True)])
def test_a_pair_in_one_sequence_is_the_tokenizers_own(folders: Callable[[str], Path], name: str, types: bool) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folders(name)), reference_model(folders(name))
    aligner = Aligner.load(folders(name), 2, method="argmax", encoding="joint", device="cpu")
    for pair in PAIRS:
        texts = [f" {text}" if name == "RoBERTa" else text for text in pair]
        encoded = tokenizer(*texts)
        sides = np.array([-1 if side is None else side for side in encoded.sequence_ids(0)])
        assert ("token_type_ids" in encoded) == types
        states = states_of(model, **encoded)[2].numpy()
        found = inter(states[sides == 0], states[sides == 1])
        words = [pieces(tokenizer, text.split(), name == "RoBERTa")[1] for text in pair]
        assert aligner.align([pair])[0] == sorted({(words[0][i], words[1][j]) for i, j in found})


def test_words_of_nothing_and_names_of_special_tokens_are_words(folders: Callable[[str], Path]) -> None:
    tokenizer: Any = load(folders("BERT")).tokenizer
    unknown, sep = SPECIALS.index(UNKNOWN), SPECIALS.index("[SEP]")
    ids, words = tokenizer.encode_words(["fox", "\u200b", "", "[SEP]"])
    assert set(words) == {0, 1, 2, 3} and sep not in ids
    assert [ids[words.index(word)] for word in (1, 2)] == [unknown, unknown]
    assert tokenizer.encode("") == [unknown]


@pytest.mark.parametrize("encoding", ["separate", "joint"])
def test_sentences_longer_than_the_positions_are_aligned_by_windows(
    folders: Callable[[str], Path], encoding: str
) -> None:
    aligner = Aligner.load(folders("RoBERTa"), 1, method="argmax", encoding=encoding, device="cpu")
    words = ["pack", "my", "box", "with", "five", "dozen", "liquor", "jugs"] * 6
    (links,) = aligner.align([(words, words)])
    assert aligner.report.long_pairs == 1 and aligner.report.windows > 1
    assert {i for i, _ in links} | {j for _, j in links} <= set(range(len(words))) and len(links) > len(words) // 2


def test_threads_give_the_links_of_one(folders: Callable[[str], Path]) -> None:
    pairs = PAIRS * 60
    threads = torch.get_num_threads()
    found = []
    for count in (1, 4):
        torch.set_num_threads(count)
        try:
            found.append(Aligner.load(folders("ModernBERT"), 2, device="cpu", batch_tokens=256).align(pairs))
        finally:
            torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_the_commands_take_a_bert(use: Use, folders: Callable[[str], Path], gold_dir: Path, tmp_path: Path) -> None:
    folder = write_folder("BERT", tmp_path / "bert")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(f"{a} ||| {b}\n" for a, b in PAIRS), encoding="utf-8")
    done = use("align", folder, pairs, "--device", "cpu")
    assert done.code == 0 and "layer 2, argmax, separate" in done.err and "on the CPU in fp32" in done.err
    links = Aligner.load(folder, 2, device="cpu").align(PAIRS)
    assert done.out.splitlines() == [" ".join(f"{i}-{j}" for i, j in of_pair) for of_pair in links]
    table = tmp_path / "scores.json"
    retrieval = [gold_dir / "test.en", gold_dir / "test.de"]
    done = use(
        "evaluate", folder, "--gold", gold_dir, "--retrieval", *retrieval[:1], "--retrieval", retrieval[1], "--record",
        "--json", table, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    entries = json.loads(table.read_text(encoding="utf-8"))
    assert [entry["kind"] for entry in entries] == ["alignment", "alignment", "retrieval"]
    assert all(len(entry["layers"]) == LAYERS + 1 for entry in entries[:2])
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))["xlm_align"]
    assert f"layer {record['layer']}, {record['method']}" in use("align", folder, pairs, "--device", "cpu").err
    done = use("show", folder, "the fox", "der fuchs", "--out", tmp_path / "pair.html", "--device", "cpu")
    assert done.code == 0 and (tmp_path / "pair.html").is_file()
    done = use("evaluate", folder, "--perplexity", tmp_path, "--device", "cpu")
    assert done.code == 1 and "model_type is 'bert', only the head of an xlm-roberta model is read" in done.error


class Malice:
    def __reduce__(self) -> Any:
        return os.system, ("echo harmed",)


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(content, file)


def other_tokenizer(folder: Path) -> None:
    made = word_piece()
    small = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({"[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4}, unk_token=UNKNOWN)
    )
    small.post_processor = made.post_processor
    write_tokenizer(small, folder)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code of its own": (
        lambda folder: change(folder, model_type="new", auto_map={"AutoModel": "modeling.New"}),
        "config.json: model_type 'new' needs code of its own (auto_map), which is never run; give an encoder",
    ),
    "unknown": (lambda folder: change(folder, model_type="newest"), "model_type 'newest' is unknown to Transformers"),
    "decoder": (lambda folder: change(folder, model_type="llama"), "model_type 'llama' is a decoder; give an encoder"),
    "encoder made a decoder": (lambda folder: change(folder, is_decoder=True), "model_type 'bert' is a decoder"),
    "with a decoder": (lambda folder: change(folder, model_type="bart"), "'bart' is an encoder with a decoder"),
    "pictures": (lambda folder: change(folder, model_type="vit"), "'vit' is no encoder of text"),
    "sizes": (
        lambda folder: change(folder, intermediate_size=48),
        "encoder.layer.0.intermediate.dense.bias is [32], config.json asks for [48]",
    ),
    "more layers": (lambda folder: change(folder, num_hidden_layers=4), "lacks encoder.layer.3."),
    "fewer layers": (lambda folder: change(folder, num_hidden_layers=2), "encoder.layer.2."),
    "missing weights": (
        lambda folder: change_weights(folder, lambda state: state.pop("embeddings.LayerNorm.weight")),
        "lacks embeddings.LayerNorm.weight",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds neither model.safetensors nor"),
    "pickle": (lambda folder: pickled(folder, {"a": Malice()}), "pytorch_model.bin"),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("*token*")],
        "its tokenizer",
    ),
    "another tokenizer": (other_tokenizer, "words, its tokenizer"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_cannot_be_used_is_told_in_one_line(use: Use, tmp_path: Path, mistake: str) -> None:
    folder = write_folder("BERT", tmp_path / "bert")
    spoil, message = REFUSED[mistake]
    spoil(folder)
    done = use("align", folder, "-", stdin=b"a ||| b\n")
    assert done.code == 1 and message in done.error and f"{folder}" in done.error
    assert not done.out and "harmed" not in done.err


def test_old_weights_are_read(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """A pickle of nothing but tensors, under the names that BERT was published with."""
    folder = write_folder("BERT", tmp_path / "bert")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    old = {
        f"bert.{name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')}": tensor
        for name, tensor in state.items()
        if "pooler" not in name
    }
    torch.save(old, folder / "pytorch_model.bin")
    packed = pack([[5, 6, 7]])
    torch.testing.assert_close(
        load(folder).encoder(packed, 3), load(folders("BERT")).encoder(packed, 3), atol=0, rtol=0
    )
