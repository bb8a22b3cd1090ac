"""An exported folder is whole, works in plain Transformers, and says how words align best with it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer
from pipeline.align.aligner import Aligner
from pipeline.checkpoints.checkpoint import read_info
from pipeline.weights import export as exporting
from pipeline.weights import export_folder
from pipeline.weights.loading import load_masked_lm, load_model
from pipeline.weights.pretrained import dropouts_of
from tests.data_prep.tokenizers.test_tokenizer_kinds import sentencepiece_of
from tests.pipeline.conftest import Done, write_shard
from tests.pipeline.run_kit import CHECKPOINT, STEP, make_run, other_tokenizer

Use = Callable[..., Done]


@pytest.fixture
def run(hf_dir: Path, tmp_path: Path) -> Path:
    return make_run(hf_dir, tmp_path)


@pytest.fixture
def exported(use: Use, run: Path, tmp_path: Path) -> Path:
    done = use("export", run, tmp_path / "hf")
    assert done.code == 0, done.err
    assert f"hf: step {STEP}, " in done.out and "layer 1, ot-filter, joint" in done.err
    return tmp_path / "hf"


def test_plain_transformers_loads_it_with_the_trained_weights(exported: Path, hf_dir: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(exported).eval()
    expected = AutoModelForMaskedLM.from_pretrained(hf_dir).eval()
    ids_BL = torch.tensor([[0, 5, 6, 7, 2]])
    with torch.no_grad():
        assert torch.equal(model(ids_BL).logits, expected(ids_BL).logits)
        AutoModel.from_pretrained(exported)(ids_BL)


def test_text_longer_than_the_positions_is_cut_by_plain_transformers(exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer.model_max_length == 64
    ids_BL = tokenizer("fox " * 500, truncation=True, return_tensors="pt")["input_ids"]
    assert ids_BL.shape == (1, 64)
    AutoModel.from_pretrained(exported)(ids_BL)


def test_config_says_how_to_align_and_transformers_carries_it_along(exported: Path, tmp_path: Path) -> None:
    section = json.loads((exported / "config.json").read_text(encoding="utf-8"))["xlm_align"]
    assert {key: section[key] for key in ("layer", "method", "encoding")} == {
        "layer": 1,
        "method": "ot-filter",
        "encoding": "joint",
    }
    assert section["tokenizer"]["sha256"] == Tokenizer.load(exported).sha256
    AutoModelForMaskedLM.from_pretrained(exported).save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(exported).save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / MODEL_NAME).exists(), "Transformers keeps its own file alone"
    assert AutoConfig.from_pretrained(tmp_path / "again").xlm_align == section
    pairs = [("the quick brown fox", "der schnelle braune fuchs")]
    first, again = Aligner.load(exported), Aligner.load(tmp_path / "again")
    assert (again.options.layer, again.options.method, again.options.encoding) == (1, "ot-filter", "joint")
    assert again.align_scored(pairs) == first.align_scored(pairs)


def test_align_show_and_evaluate_take_the_record_and_say_so(
    use: Use, exported: Path, gold_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs").write_text("the quick brown fox ||| der schnelle braune fuchs\n", encoding="utf-8")
    taken = "aligning by layer 1, ot-filter, joint (the layer and method of its training)"
    done = use("align", exported, tmp_path / "pairs")
    assert taken in done.err
    asked = ["--layer", 1, "--method", "ot-filter", "--encoding", "joint"]
    assert done.out == use("align", exported, tmp_path / "pairs", *asked).out
    shown = use("show", exported, "the fox", "der fuchs", "--out", tmp_path / "x.html")
    assert taken in shown.err and "layer 1, ot-filter, joint" in shown.out
    assert taken in use("evaluate", exported, "--gold", gold_dir).err


def test_a_run_s_own_folder_is_aligned_as_its_export(use: Use, run: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("the quick brown fox ||| der schnelle braune fuchs\n", encoding="utf-8")
    for folder in (run, run / CHECKPOINT):
        done = use("align", folder, tmp_path / "pairs")
        assert "layer 1, ot-filter, joint" in done.err
        assert done.out == use("align", exported, tmp_path / "pairs").out


def test_the_layer_that_validation_measured_goes_before_the_trained_one(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    alignment = {"layer": 2, "method": "ot-filter", "encoding": "joint", "why": "the lowest mean AER of validation"}
    run = make_run(hf_dir, tmp_path, alignment=alignment)
    assert use("export", run, tmp_path / "hf").code == 0
    assert Aligner.load(tmp_path / "hf").options.layer == 2 == Aligner.load(run).options.layer


def test_a_run_without_word_alignment_is_aligned_as_a_plain_checkpoint(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    run = make_run(hf_dir, tmp_path, objectives={"mlm": {}, "tlm": None, "dwa": None})
    assert use("export", run, tmp_path / "hf").code == 0
    options = Aligner.load(tmp_path / "hf").options
    assert (options.layer, options.method, options.encoding) == (2, "argmax", "separate")


@pytest.mark.parametrize(
    ("rates", "expected"),
    [({}, (0.1, 0.1)), ({"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.0}, (0.2, 0.0))],
)
def test_dropout_is_that_of_the_model_that_training_began_with(
    use: Use, hf_dir: Path, tmp_path: Path, rates: dict[str, float], expected: tuple[float, float]
) -> None:
    run = make_run(hf_dir, tmp_path, dropouts=rates)
    assert use("export", run, tmp_path / "hf").code == 0
    config = AutoConfig.from_pretrained(tmp_path / "hf")
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == expected
    kept = dropouts_of(tmp_path / "hf")
    assert (kept["hidden_dropout_prob"], kept["attention_probs_dropout_prob"]) == expected
    assert dropouts_of(None)["hidden_dropout_prob"] == 0.1


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_every_file_can_be_read_by_whom_the_umask_lets(use: Use, run: Path, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert use("export", run, tmp_path / "hf").code == 0
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "hf").iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}, modes
    assert "model.safetensors" in modes


def test_the_model_card_says_what_is_known(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n") and "\nlicense:" not in card
    sha256 = Tokenizer.load(exported).sha256
    for part in (
        f"| optimizer steps | {STEP} |",
        "MLM, ",
        "TLM, ",
        "DWA, ",
        "layer 1, ot-filter, joint",
        sha256,
        "Licence",
    ):
        assert part in card


def test_a_run_without_masked_lm_gets_a_fresh_head_and_says_so(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    run = make_run(hf_dir, tmp_path, head=False, objectives={"mlm": None, "tlm": None, "dwa": {"alignment_layer": 1}})
    done = use("export", run, tmp_path / "hf")
    assert done.code == 0 and "without a trained masked-LM head" in done.out
    assert "not trained: random weights" in (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    weight = load_masked_lm(tmp_path / "hf")[1].dense.weight.detach()
    assert bool(torch.isfinite(weight).all()) and float(weight.std()) > 0
    torch.rand(1)  # another process has another state
    assert use("export", run, tmp_path / "again").code == 0
    both = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("hf", "again")]
    assert both[0] == both[1]


def test_a_run_needs_its_token_files_no_more(use: Use, run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(run, elsewhere / "moved")
    shutil.rmtree(tmp_path / "data")
    monkeypatch.chdir(elsewhere)
    assert use("export", "moved", "hf").code == 0
    (elsewhere / "pairs").write_text("the fox ||| der fuchs\n", encoding="utf-8")
    assert use("align", "moved", "pairs").code == 0


def test_another_tokenizer_in_place_of_the_run_s_is_refused(use: Use, run: Path, hf_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "data" / "tokenizer"
    shutil.rmtree(place)
    other_tokenizer(Tokenizer.load(hf_dir)).save(place)
    assert use("export", run, tmp_path / "hf").code == 0, "it has its own"
    shutil.rmtree(run / "tokenizer")
    (tmp_path / "pairs").write_text("the fox ||| der fuchs\n", encoding="utf-8")
    for command in (
        ["export", run, tmp_path / "hf2"],
        ["export", run, tmp_path / "hf2", "--tokenizer", place],
        ["align", run, tmp_path / "pairs"],
        ["align", run, tmp_path / "pairs", "--tokenizer", place],
        ["align", tmp_path / "hf", tmp_path / "pairs", "--tokenizer", place],
    ):
        done = use(*command)
        assert done.code == 1 and "another tokenizer than the model was trained with" in done.error and not done.out
    assert not (tmp_path / "hf2").exists()
    assert use("export", run, tmp_path / "hf2", "--tokenizer", hf_dir).code == 0
    assert Tokenizer.load(tmp_path / "hf2").sha256 == Tokenizer.load(hf_dir).sha256


def test_a_run_whose_tokenizers_are_gone_wants_one(use: Use, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "tokenizer")
    shutil.rmtree(tmp_path / "data")
    done = use("export", run, tmp_path / "hf")
    assert done.code == 1 and "or give --tokenizer DIR" in done.error


def test_ids_that_hugging_face_would_not_give_stop_the_export(use: Use, run: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(sentencepiece_of(normalization_rule_name="nfkc", vocab_size=50))
    with pytest.raises(ValueError, match=r"not written: .* other ids .*'a\\tb"):
        exporting.save_tokenizer(tokenizer, tmp_path / "out")
    with pytest.raises(ValueError, match="its model_type is bpe"):
        exporting.save_tokenizer(Tokenizer(sentencepiece_of(model_type="bpe")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_text_that_is_compared_is_that_of_the_token_files(
    run: Path, hf_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.load(hf_dir)
    info = read_info(run / CHECKPOINT)
    assert exporting.training_text(info, tokenizer) == [], "there is no manifest"
    text = ["the quick brown fox", "pack my box"]
    shard = write_shard(tmp_path / "data" / "en", ("en",), [[tokenizer.encode(line) for line in text]])
    manifest = Manifest(tmp_path / "data", tokenizer.sha256, tokenizer.vocab_size, {"en": [shard]}, {}, [], "")
    monkeypatch.setattr(Manifest, "read", lambda folder: manifest)
    assert exporting.training_text(info, tokenizer) == text


def test_only_an_export_is_replaced_and_only_by_force(use: Use, run: Path, exported: Path) -> None:
    before = (exported / "model.safetensors").stat().st_ino
    refused = use("export", run, exported)
    assert refused.code == 1 and "is not empty; give a new folder, or --force" in refused.error
    assert use("export", run, exported, "--force").code == 0
    assert (exported / "model.safetensors").stat().st_ino != before
    (exported / "thesis.tex").write_text("years of work", encoding="utf-8")
    refused = use("export", run, exported, "--force")
    assert refused.code == 1 and "holds thesis.tex, which no export wrote" in refused.error
    assert (exported / "thesis.tex").exists()
    assert sorted(path.name for path in exported.parent.iterdir() if path.name.startswith(".")) == []


def test_a_disk_too_small_is_one_line_with_the_bytes_that_lack(
    use: Use, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(export_folder.shutil, "disk_usage", lambda place: usage(10**6, 10**6 - 100, 100))
    done = use("export", run, tmp_path / "hf")
    assert done.code == 1 and "hf: the export takes " in done.error and "the disk has 100 left" in done.error
    assert "too few" in done.error and not (tmp_path / "hf").exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_disk_that_fills_up_leaves_nothing_half_written(
    use: Use, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    if force:
        assert use("export", run, tmp_path / "hf").code == 0
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted((tmp_path / "hf").glob("*"))]

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "save_file", full)
    done = use("export", run, tmp_path / "hf", *(["--force"] if force else []))
    assert done.code == 1 and "hf: cannot be written (No space left on device); it takes " in done.error
    assert [(path.name, path.stat().st_mtime_ns) for path in sorted((tmp_path / "hf").glob("*"))] == before
    assert (tmp_path / "hf").exists() == force and not list(tmp_path.glob(".*"))


def test_what_killed_exports_left_is_cleared_and_a_living_one_is_left_alone(
    use: Use, run: Path, exported: Path, tmp_path: Path
) -> None:
    killed, living, foreign = (tmp_path / name for name in (".hf.4194301.tmp", ".hf.4194302.tmp", ".hf.base.7.tmp"))
    for folder in (killed, living, foreign):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x")
    held = export_folder._hold(living)
    assert use("export", run, exported, "--force").code == 0
    os.close(held)
    assert not killed.exists() and living.exists() and foreign.exists()


def test_an_export_that_was_moved_aside_by_a_killed_one_is_put_back(
    use: Use, run: Path, exported: Path, tmp_path: Path
) -> None:
    before = (exported / "model.safetensors").read_bytes()
    exported.rename(tmp_path / ".hf.4194301.replaced")
    refused = use("export", run, exported)
    assert refused.code == 1 and "is not empty" in refused.error
    assert (exported / "model.safetensors").read_bytes() == before
    exported.rename(tmp_path / ".hf.4194301.replaced")
    done = use("export", run, exported, "--force")
    assert done.code == 0 and "was put back; an export was killed while it replaced it" in done.err
    assert not list(tmp_path.glob(".hf*"))


def test_a_damaged_checkpoint_is_skipped_aloud(use: Use, run: Path, hf_dir: Path, tmp_path: Path) -> None:
    later = run / "checkpoints" / "step_00000009"
    shutil.copytree(run / CHECKPOINT, later)
    (later / "mp_rank_00_model_states.pt").write_bytes(b"x")
    done = use("export", run, tmp_path / "hf")
    assert done.code == 0 and f"hf: step {STEP}" in done.out
    assert "note: skipped a checkpoint: " in done.err and "step_00000009" in done.err


MISTAKES = {
    "nowhere": ("{tmp}/nosuch", "nosuch: no such folder; give a Hugging Face model folder, a run folder"),
    "a file": ("{tmp}/file", "file: is a file; give a Hugging Face model folder"),
    "empty": ("{tmp}/empty", "empty: holds no model (neither config.json, model.pt nor checkpoints/); give"),
    "unfinished": ("{tmp}/run/checkpoints/step_00000008", "not a complete checkpoint (manifest.json is missing)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_model_is_named(use: Use, run: Path, tmp_path: Path, mistake: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for folder in (tmp_path / "empty", run / "checkpoints" / "step_00000008"):
        folder.mkdir()
    given, message = MISTAKES[mistake]
    done = use("export", given.format(tmp=tmp_path), tmp_path / "out")
    assert done.code == 1 and message in done.error and "--resume" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_place_for_an_export(use: Use, run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert "file: is a file; give the folder to write" in use("export", run, tmp_path / "file").error
    assert "file/hf: cannot be written" in use("export", run, tmp_path / "file" / "hf").error


@pytest.fixture
def writable_hf(hf_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(hf_dir, tmp_path / "model")
    return tmp_path / "model"


def test_evaluate_records_the_best_layer_in_a_folder_only_when_asked(
    use: Use, writable_hf: Path, gold_dir: Path
) -> None:
    before = (writable_hf / "config.json").read_bytes()
    (writable_hf / ".config.json.999999999.tmp").write_bytes(b"of a killed one")
    assert use("evaluate", writable_hf, "--gold", gold_dir).code == 0
    assert (writable_hf / "config.json").read_bytes() == before
    done = use("evaluate", writable_hf, "--gold", gold_dir, "--record", "--json", writable_hf.parent / "aer.json")
    assert done.code == 0 and f"recorded in {writable_hf}/config.json" in done.err
    assert not list(writable_hf.glob(".*"))
    entries = json.loads((writable_hf.parent / "aer.json").read_text(encoding="utf-8"))
    assert [(e["method"], e["encoding"]) for e in entries] == [("argmax", "separate"), ("ot-filter", "joint")]
    best = min(entries, key=lambda e: e["layers"][e["best_layer"]]["aer"])
    content = json.loads((writable_hf / "config.json").read_text(encoding="utf-8"))
    section = content.pop("xlm_align")
    assert content == json.loads(before), "all else is as it was"
    assert (section["layer"], section["method"]) == (best["best_layer"], best["method"]) and "en-de" in section["why"]
    assert Aligner.load(writable_hf).options.layer == section["layer"]


def test_evaluate_records_in_a_checkpoint_too(use: Use, run: Path, gold_dir: Path) -> None:
    done = use("evaluate", run, "--gold", gold_dir, "--method", "ot", "--record")
    assert done.code == 0 and f"recorded in {run / CHECKPOINT}/manifest.json" in done.err
    assert Aligner.load(run).options.method == "ot"
    load_model(run)


def test_a_record_without_gold_is_refused(use: Use, hf_dir: Path) -> None:
    assert "--record: only AER tells" in use("evaluate", hf_dir, "--retrieval", "x", "--record").error
