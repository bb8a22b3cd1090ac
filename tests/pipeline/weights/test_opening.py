"""One model in every place that weights may lie in: each command takes each place, and the model is the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer
from pipeline.data.packing import pack
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.tagging import Tagging
from pipeline.objectives.catalog import build_objectives
from pipeline.settings.added_words import AddedWords
from pipeline.settings.schema import Config
from pipeline.show import demo
from pipeline.training.build import build_model
from pipeline.weights.loading import load_masked_lm, load_model
from pipeline.weights.opening import open_weights
from pipeline.weights.pretrained import check_tokenizer, dropouts_of, read_pretrained, read_sizes
from tests.pipeline.conftest import Done
from tests.pipeline.run_kit import CHECKPOINT, make_fairseq, make_run, other_tokenizer

Use = Callable[..., Done]
PLACES = {
    "Hugging Face folder": "hf",
    "fairseq file": "fairseq/model.pt",
    "fairseq folder": "fairseq",
    "run": "run",
    "checkpoint": f"run/{CHECKPOINT}",
}
ALIGNED = ["--method", "argmax", "--encoding", "separate"]
IDS = [0, 5, 6, 7, 8, 2]


@pytest.fixture(scope="module")
def house(hf_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model in all these places."""
    house = tmp_path_factory.mktemp("house")
    shutil.copytree(hf_dir, house / "hf")
    state = load_file(house / "hf" / "model.safetensors")
    state["roberta.embeddings.token_type_embeddings.weight"].zero_()  # which fairseq has not
    save_file(state, house / "hf" / "model.safetensors", metadata={"format": "pt"})
    make_run(house / "hf", house)
    make_fairseq(house / "hf", house)
    (house / "pairs").write_text("the quick brown fox ||| der schnelle braune fuchs\n", encoding="utf-8")
    return house


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, house: Path) -> Path:
    return house / PLACES[request.param]


def test_hidden_states_head_and_tokenizer_are_the_same(place: Path, house: Path) -> None:
    ours, head, tokenizer = load_masked_lm(place)
    expected, its_head, its_tokenizer = load_masked_lm(house / "hf")
    with torch.no_grad():
        for found_TD, expected_TD in zip(
            ours.hidden_states(pack([IDS])), expected.hidden_states(pack([IDS])), strict=True
        ):
            assert torch.equal(found_TD, expected_TD)
    assert head.state_dict().keys() == its_head.state_dict().keys()
    assert all(torch.equal(tensor, its_head.state_dict()[name]) for name, tensor in head.state_dict().items())
    assert tokenizer.sha256 == its_tokenizer.sha256


def test_align_evaluate_and_show(use: Use, place: Path, house: Path, gold_dir: Path, tmp_path: Path) -> None:
    def answers(model: Path) -> tuple[str, Any, str]:
        aligned = use("align", model, house / "pairs", "--layer", 2, *ALIGNED, "--scores")
        evaluated = use("evaluate", model, "--gold", gold_dir, *ALIGNED, "--json", tmp_path / "aer.json")
        page = tmp_path / "x.html"
        shown = use("show", model, "the fox", "der fuchs", "--layer", 2, *ALIGNED, "--out", page)
        assert [done.code for done in (aligned, evaluated, shown)] == [0, 0, 0], (aligned, evaluated, shown)
        return aligned.out, json.loads((tmp_path / "aer.json").read_text()), page.read_text(encoding="utf-8")

    assert answers(place) == answers(house / "hf")


def test_demo(use: Use, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = demo.make_server

    def make(*arguments: Any) -> Any:
        server = made(*arguments)
        server.serve_forever = lambda: None
        return server

    monkeypatch.setattr(demo, "make_server", make)
    done = use("demo", place, "--port", 0)
    assert done.code == 0 and f"shows {place}" in done.out


def test_finetune_starts_with_the_same_encoder(place: Path, house: Path) -> None:
    start, expected = read_start(place), read_start(house / "hf")
    encoders = [each.model(Tagging.model, ["A"], 0.0).roberta.state_dict() for each in (start, expected)]
    assert all(torch.equal(tensor, encoders[1][name]) for name, tensor in encoders[0].items())
    text = "the quick brown fox"
    assert start.tokenizer(text)["input_ids"] == expected.tokenizer(text)["input_ids"]


def test_predict_wants_what_finetune_wrote(use: Use, place: Path, house: Path) -> None:
    done = use("predict", place, house / "pairs")
    assert done.code == 1 and "finetune.json: no such file; give the folder `model` that finetune wrote" in done.error


def test_export_writes_the_same_weights(use: Use, place: Path, house: Path, tmp_path: Path) -> None:
    done = use("export", place, tmp_path / "out")
    assert done.code == 0, done.err
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", house / "hf"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert Tokenizer.load(tmp_path / "out").sha256 == Tokenizer.load(house / "hf").sha256
    again = use("export", tmp_path / "out", tmp_path / "again")
    assert again.code == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    of_a_run = "run" in place.relative_to(house).parts
    assert all((part in card) == of_a_run for part in ("optimizer steps", "seed", "pretrained with", "training data"))
    assert ("taken as it was from the" in card) != of_a_run and "| masked-LM head | trained |" in card


def test_init(place: Path, house: Path) -> None:
    content = {
        "data": {"path": "data", "block_tokens": 60, "side_tokens": 20},
        "model": {"init": place, "dropout": 0.25},
        "objectives": {"mlm": {}, "dwa": None},
        "run": {"out": "run"},
        "deepspeed": "none.json",
    }
    config = Config.model_validate(content)
    tokenizer = Tokenizer.load(house / "hf")
    model, head_is_pretrained = build_model(config, build_objectives(config), AddedWords(tokenizer.vocab_size))
    expected = load_model(house / "hf")[0].state_dict()
    assert head_is_pretrained and model.encoder.config.dropout == 0.25
    assert read_sizes(place, 0.25) == model.encoder.config
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.encoder.state_dict().items())
    expected_rate = 0.0 if place.name == "hf" else 0.1  # of its config.json; the others name none
    assert set(dropouts_of(place).values()) == {expected_rate}


def test_init_wants_token_files_of_its_own_tokenizer(place: Path, house: Path, tmp_path: Path) -> None:
    own = Tokenizer.load(house / "hf")
    for tokenizer in (own, other_tokenizer(own)):
        folder = tmp_path / tokenizer.sha256[:6]
        tokenizer.save(folder / "tokenizer")
        manifest = Manifest(folder, tokenizer.sha256, tokenizer.vocab_size, {}, {}, [], "0" * 64)
        if tokenizer is own:
            assert check_tokenizer(place, manifest) == []
            continue
        with pytest.raises(ValueError, match=r"is another tokenizer than that of data.path = .*; binarize with this"):
            check_tokenizer(place, manifest)


def test_a_run_hands_on_the_dropout_of_the_model_that_it_began_with(house: Path, tmp_path: Path) -> None:
    rates = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.0}
    assert dropouts_of(make_run(house / "hf", tmp_path, dropouts=rates)) == rates


def test_only_a_model_with_a_file_for_it_takes_a_record(use: Use, house: Path, gold_dir: Path) -> None:
    for place in ("fairseq", "fairseq/model.pt"):
        done = use("evaluate", house / place, "--gold", gold_dir, "--record")
        assert done.code == 1 and "has no place for a record; make a Hugging Face folder of it" in done.error
        assert not done.out, "before anything is measured"


def a_run_without_checkpoints(place: Path, house: Path) -> Path:
    (place / "run").mkdir()
    (place / "run" / "config.yaml").write_text("{}", encoding="utf-8")
    return place / "run"


def a_run_whose_first_is_not_whole(place: Path, house: Path) -> Path:
    (place / "run" / CHECKPOINT).mkdir(parents=True)
    return place / "run"


def an_unfinished_checkpoint(place: Path, house: Path) -> Path:
    return a_run_whose_first_is_not_whole(place, house) / CHECKPOINT


def an_empty_folder(place: Path, house: Path) -> Path:
    (place / "empty").mkdir()
    return place / "empty"


def nothing(place: Path, house: Path) -> Path:
    return place / "nowhere"


def a_text(place: Path, house: Path) -> Path:
    return house / "pairs"


def no_model_pt(place: Path, house: Path) -> Path:
    return place / "model.pt"


def a_pt_of_something_else(place: Path, house: Path) -> Path:
    torch.save({"weights": torch.zeros(3)}, place / "other.pt")
    return place / "other.pt"


def a_text_called_pt(place: Path, house: Path) -> Path:
    (place / "text.pt").write_text("x", encoding="utf-8")
    return place / "text.pt"


def a_file_of_a_checkpoint(place: Path, house: Path) -> Path:
    return house / "run" / CHECKPOINT / "mp_rank_00_model_states.pt"


NEAR_MISSES = {
    a_run_without_checkpoints: "run: is a run without a checkpoint; wait for its first one",
    a_run_whose_first_is_not_whole: "run: holds no checkpoint; give a run folder",
    an_unfinished_checkpoint: "not a complete checkpoint (manifest.json is missing)",
    an_empty_folder: "empty: holds no model (neither config.json, model.pt nor checkpoints/); give a Hugging Face model folder",
    nothing: "nowhere: no such folder; give a Hugging Face model folder, a run folder, a checkpoint or fairseq's model.pt",
    a_text: "pairs: is a file; give a Hugging Face model folder",
    no_model_pt: "model.pt: cannot be read",
    a_pt_of_something_else: "other.pt: holds no `model` with tensors; give fairseq's model.pt",
    a_text_called_pt: "text.pt: ",
    a_file_of_a_checkpoint: "model_states.pt: is a part of a checkpoint; give its folder",
}


@pytest.mark.parametrize("miss", NEAR_MISSES)
def test_near_misses_are_one_line_each(
    use: Use, house: Path, tmp_path: Path, miss: Callable[[Path, Path], Path]
) -> None:
    place = miss(tmp_path, house)
    for command in (["align", place, house / "pairs"], ["export", place, tmp_path / "out"]):
        done = use(*command)
        assert done.code == 1 and NEAR_MISSES[miss] in done.error and str(place) in done.error
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - looked at below
        read_pretrained(place, 0.0)
    assert NEAR_MISSES[miss] in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_fairseq_without_its_sentencepiece_file_says_which_option_helps(use: Use, house: Path, tmp_path: Path) -> None:
    shutil.copy(house / "fairseq" / "model.pt", tmp_path / "model.pt")
    done = use("align", tmp_path / "model.pt", house / "pairs")
    assert f"{tmp_path}: has neither {MODEL_NAME} nor tokenizer.json" in done.error
    assert "give --tokenizer DIR" in done.error
    assert use("align", tmp_path, house / "pairs", "--tokenizer", house / "hf").code == 0


def test_other_modules_of_a_checkpoint_are_left_out_and_an_encoder_is_wanted(house: Path, tmp_path: Path) -> None:
    run = make_run(house / "hf", tmp_path, more={"decoder.word.weight": torch.zeros(3), "heads.x.a": torch.zeros(1)})
    assert open_weights(run).state().keys() == open_weights(house / "run").state().keys()
    (tmp_path / "second").mkdir()
    run = make_run(house / "hf", tmp_path / "second", only={"decoder.word.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"step_00000007: holds no encoder, but decoder; give another checkpoint"):
        open_weights(run).state()


def test_an_export_over_the_model_itself_is_refused(use: Use, house: Path) -> None:
    done = use("export", house / "hf", house / "hf", "--force")
    assert done.code == 1 and "is the model itself; give another folder" in done.error


LOADED = """import sys
from pipeline.align.aligner import Aligner
for place in sys.argv[1:]: Aligner.load(place)
print("loaded", sorted({"deepspeed", "transformers", "matplotlib"} & sys.modules.keys()))"""


def test_a_model_is_loaded_without_what_only_training_needs(house: Path) -> None:
    places = [str(house / name) for name in ("hf", "fairseq", "run")]
    done = subprocess.run([sys.executable, "-c", LOADED, *places], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "loaded []", done.stdout + done.stderr
