"""Published protocols by name: each one's layer, pooling, direction and projection, against vectors that are made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipeline.data.packing import pack
from pipeline.evaluate.protocols import PROTOCOLS, choose, evaluate_protocol, pooler_of
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.texts.sentence_files import find_pairs
from pipeline.weights.loading import LoadedModel, load
from pipeline.weights.sentence_projection import ProjectedVectors, SentenceProjection
from tests.pipeline.conftest import Done

Use = Callable[..., Done]
ENGLISH = ["the fox", "my box", "judge my vow", "the lazy dog"]
GERMAN = ["der fuchs", "den hund", "der schnelle braune fuchs", "faulen hund springt"]


@pytest.fixture
def loaded(hf_dir: Path) -> LoadedModel:
    return load(hf_dir)


def of_depth(loaded: LoadedModel, layers: int) -> LoadedModel:
    """The same with another encoder of that many layers."""
    sizes = EncoderConfig(50, layers=layers, hidden=8, heads=2, feed_forward=8, positions=66)
    return replace(loaded, encoder=Encoder(sizes).eval())


@pytest.fixture
def tatoeba(tmp_path: Path) -> Path:
    folder = tmp_path / "tatoeba"
    folder.mkdir()
    (folder / "tatoeba.deu-eng.eng").write_text("\n".join(ENGLISH) + "\n", encoding="utf-8")
    (folder / "tatoeba.deu-eng.deu").write_text("\n".join(GERMAN) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "layers", "layer", "pooling"),
    [
        ("xtreme", 12, 8, "mean"),
        ("xtreme", 24, 14, "mean"),
        ("infoxlm", 12, 7, "mean"),
        ("cls", 12, 12, "first"),
        ("cls", 5, 5, "first"),
    ],
)
def test_a_protocol_is_the_published_layer_and_pooling(
    loaded: LoadedModel, name: str, layers: int, layer: int, pooling: str
) -> None:
    chosen = choose(name, None, of_depth(loaded, layers))
    assert (chosen.layer, chosen.pooling, chosen.projection) == (layer, pooling, None)
    assert choose(name, 2, of_depth(loaded, layers)).layer == 2
    assert chosen.both_directions == (name == "infoxlm")


def test_projected_is_as_the_projection_was_trained(loaded: LoadedModel) -> None:
    weight_DD = torch.randn(16, 16)
    projected = replace(loaded, projection=SentenceProjection(weight_DD, ProjectedVectors(2, "mean")))
    chosen = choose("projected", None, projected)
    assert (chosen.layer, chosen.pooling) == (2, "mean")
    (vectors_SD,) = pooler_of(projected, chosen).vectors(ENGLISH)
    (plain_SD,) = pooler_of(loaded, choose("xtreme", 2, loaded)).vectors(ENGLISH)
    torch.testing.assert_close(vectors_SD, F.normalize(plain_SD @ weight_DD.T, dim=1))
    assert choose("xtreme", 2, projected).projection is None


@torch.no_grad()
def test_cls_is_the_first_token_of_the_last_layer(loaded: LoadedModel) -> None:
    (vectors_SD,) = pooler_of(loaded, choose("cls", None, loaded)).vectors(ENGLISH)
    for vector_D, sentence in zip(vectors_SD, ENGLISH, strict=True):
        hidden_TD = loaded.encoder(pack([[0, *loaded.tokenizer.encode(sentence), 2]]), 3)
        torch.testing.assert_close(vector_D, F.normalize(hidden_TD[0], dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("score", ["cosine", "margin"])
def test_the_pivot_is_english_on_whichever_side_it_stands(loaded: LoadedModel, tatoeba: Path, score: str) -> None:
    pud = tatoeba.parent / "pud"
    pud.mkdir()
    (pud / "x.en").write_bytes((tatoeba / "tatoeba.deu-eng.eng").read_bytes())
    (pud / "x.de").write_bytes((tatoeba / "tatoeba.deu-eng.deu").read_bytes())
    chosen = choose("xtreme", 2, loaded)
    (one, _), (other, _) = evaluate_protocol(find_pairs(tatoeba, pud), loaded, chosen, score)  # type: ignore[arg-type]
    assert (one.languages, one.pivot, other.languages, other.pivot) == ("deu-eng", "eng", "en-de", "en")
    assert (one.from_pivot, one.to_pivot) == (other.from_pivot, other.to_pivot)


def test_a_protocol_is_its_layer_of_all(use: Use, hf_dir: Path, tatoeba: Path, tmp_path: Path) -> None:
    files = [tmp_path / "all.json", tmp_path / "one.json"]
    wanted = ["evaluate", hf_dir, "--retrieval", tatoeba, "--score", "margin"]
    assert use(*wanted, "--json", files[0]).code == 0
    done = use(*wanted, "--json", files[1], "--protocol", "infoxlm", "--layer", 1, "--predictions", tmp_path / "out")
    assert done.code == 0, done.err
    assert "layer 1, mean over all tokens; both directions" in " ".join(done.out.split())
    (of_all,), (of_one,) = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    assert (of_one["to_pivot"], of_one["from_pivot"]) == (of_all["forward"][1], of_all["backward"][1])
    assert of_all["score"] == of_one["score"] == "margin"
    assert (of_one["kind"], of_one["protocol"], of_one["layer"]) == ("retrieval_protocol", "infoxlm", 1)
    found = (tmp_path / "out" / "tatoeba" / "test-de.tsv").read_text(encoding="utf-8").splitlines()
    assert len(found) == 4 and all(0 <= int(index) < 4 for index in found)
    right = sum(int(index) == at for at, index in enumerate(found))
    assert right / 4 == of_one["from_pivot"], "a line an English sentence, with the German line that it finds"


MISTAKES = {
    "no such protocol": (["--protocol", "laser"], "--protocol 'laser': choose one of xtreme, infoxlm, cls, projected"),
    "no such score": (["--score", "csls"], "--score 'csls': choose cosine or margin"),
    "layer of nothing": (["--layer", "2"], "--layer 2: is of --protocol"),
    "unknown depth": (["--protocol", "xtreme"], "for models of 12 and 24 layers, this one has 3; give --layer"),
    "no such layer": (["--protocol", "cls", "--layer", "4"], "--layer 4: the model has 3 layers; give one of 0 to 3"),
    "no projection": (["--protocol", "projected"], "the model has no sentence projection"),
    "predictions of all layers": (["--predictions", "{tmp}/out"], "are those of one layer; give --protocol too"),
    "picture of one layer": (["--protocol", "cls", "--picture", "{tmp}/x.png"], "only AER and retrieval have layers"),
    "two pairs in a file": (
        ["--retrieval", "{tmp}/pud", "--protocol", "cls", "--predictions", "{tmp}/out"],
        "test-de.tsv would hold two pairs, deu and de",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(use: Use, hf_dir: Path, tatoeba: Path, tmp_path: Path, mistake: str) -> None:
    (tmp_path / "pud").mkdir()
    for language in ("en", "de"):
        (tmp_path / "pud" / f"x.{language}").write_text("a\n")
    words, message = MISTAKES[mistake]
    done = use("evaluate", hf_dir, "--retrieval", tatoeba, *(word.format(tmp=tmp_path) for word in words))
    assert done.code == 1 and message in done.error
    assert not done.out and not (tmp_path / "out" / "tatoeba" / "test-de.tsv").exists()


def test_a_protocol_without_sentences_is_a_mistake(use: Use, hf_dir: Path, gold_dir: Path) -> None:
    assert "is of --retrieval" in use("evaluate", hf_dir, "--gold", gold_dir, "--protocol", "cls").error


def test_every_protocol_is_in_the_help(use: Use) -> None:
    shown = use("evaluate", "--help").out
    assert all(name in shown for name in PROTOCOLS)
