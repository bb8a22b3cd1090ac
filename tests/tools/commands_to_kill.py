"""What `kill_commands` kills: commands of pipeline that read a folder of tiny inputs and write into the current folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.sample import write_sample
from data_prep.tokenizers.tokenizer import MODEL_NAME, train
from pipeline.xtreme.sample import write_sample as write_miniature

Contents = dict[str, bytes]
SENTENCES, GOLD_PAIRS, ITEMS = 24, 8, 12
FORCE = "or --force to replace the export that it holds"


@dataclass(frozen=True)
class Command:
    """One that is killed, in a folder beside `inputs`, where it may find what an earlier one left."""

    name: str
    words: Sequence[str]
    old: Sequence[str] = ()
    """The command that has left something there; without it nothing is there."""
    needs: str = ""
    """Of the inputs, what is copied into the folder first, to be changed there."""
    always_old: bool = False
    further: dict[str, list[str]] = field(default_factory=dict)
    """What a refused start may say, and the words that it asks for."""
    unsealed: tuple[str, ...] = ()
    """Folders of what counts only once more is there: they are compared at the end alone."""
    grows: str = ""
    """A JSON file whose `runs` become more."""
    untold: tuple[str, ...] = ()
    """What is not the same in two runs, times most of all."""
    says_what_it_finds: bool = False
    """Whether what it prints depends on what it finds there."""


def commands() -> dict[str, Command]:
    """All of them by name."""
    cpu = ["--device", "cpu"]
    model, texts = "../inputs/model", ["../inputs/text.qaa", "../inputs/text.qab"]
    raw = ["--raw", "--layer", "1", *cpu]
    split = [*raw, "--split", "split.tsv"]
    gold, other_gold = ["--gold", "../inputs/gold/qaa-qab"], ["--gold", "../inputs/gold/qab-qac"]
    scores = ["--json", "aer.json", "--picture", "aer.png", *cpu]
    record = ["evaluate", "model", "--record", *cpu]
    words = ["../inputs/words.tsv", texts[1]]
    projected = ["--model", model, "--layer", "1", *cpu, "--out", "labels.tsv", "--json", "labels.json"]
    found = ["--layer", "1", *cpu, "--out", "mined.tsv"]
    drawn = ["--layer", "1", *cpu, "--out", "pair.png", "--out", "pair.html"]
    quick = ["--epochs", "2", "--batch", "4", "--out", "out", *cpu]
    tags, pairs = "../inputs/xtreme/panx", "../inputs/xtreme/pawsx"
    tests = ["en", "ko"]
    row = ["--epochs", "1", "--layer", "1", "--tasks", "pawsx,panx,tatoeba", *cpu]
    bitext = [*texts, "--pair", "qaa-qab", *gold, "--steps", "4", "--out", "out"]
    made = [
        Command("align", ["align", model, *texts, *raw]),
        Command("split", ["align", model, *texts, *split], ["align", model, *reversed(texts), *split]),
        Command("evaluate", ["evaluate", model, *gold, *scores], ["evaluate", model, *other_gold, *scores]),
        Command("record", [*record, *gold], [*record, *other_gold], needs="model", always_old=True, says_what_it_finds=True),
        Command("export", ["export", "../inputs/run", "hf"], further={FORCE: ["--force"]}),
        Command("replace", ["export", "../inputs/run", "hf", "--force"], ["export", model, "hf"], always_old=True),
        Command("project", ["project", *words, *projected], ["project", *words, *projected, "--unlinked", "X"]),
        Command("generate", ["generate", "../inputs/writer", "../inputs/text.qaa", "--max-tokens", "8", "--to", "de", *cpu]),
        Command("mine", ["mine", model, *texts, *found], ["mine", model, *reversed(texts), *found]),
        Command("show", ["show", model, "ba be", "do du be", *drawn], ["show", model, "ba", "do", *drawn]),
        Command(
            "tag",
            ["finetune", "tag", model, *files("--train", tags, "train", ["en"]), *files("--dev", tags, "dev", ["en"]),
             *files("--test", tags, "test", tests), "--seeds", "2", *quick],
            unsealed=("out/seed-1/trainer", "out/seed-2/trainer"),
            grows="out/results.json",
        ),
        Command(
            "classify",
            ["finetune", "classify", model, *files("--train", pairs, "train", ["en"]), *files("--test", pairs, "test", tests),
             *quick],
            unsealed=("out/trainer",),
        ),
        Command("xtreme", ["xtreme", model, "--data", "../inputs/xtreme", "--out", "out", *row], unsealed=("out/trials",)),
        Command(
            "adapt",
            ["adapt", model, *bitext],
            unsealed=("out/data", "out/run"),
            untold=("out/run",),
        ),
    ]  # fmt: skip
    return {command.name: command for command in made}


def files(option: str, folder: str, part: str, languages: Sequence[str]) -> list[str]:
    """Words for files of XTREME's miniature."""
    return [word for each in languages for word in (option, f"{folder}/{part}-{each}.tsv")]


def make_inputs(work: Path) -> None:
    """`work`/inputs, with everything that the commands read."""
    from tests.pipeline.run_kit import make_run

    inputs, sample = work / "inputs", work / "sample"
    write_sample(sample, 0)
    write_miniature(inputs / "xtreme", ITEMS)
    for language in ("qaa", "qab"):
        lines = (sample / "parallel" / f"train.qaa-qab.{language}").read_text(encoding="utf-8").splitlines()[:SENTENCES]
        (inputs / f"text.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if language == "qaa":
            tagged = ["".join(f"{word}\tT{len(word) % 3}\n" for word in line.split()) for line in lines]
            (inputs / "words.tsv").write_text("\n".join(tagged), encoding="utf-8")
    for pair in ("qaa-qab", "qab-qac"):
        _shorten(sample / "gold" / pair, inputs / "gold" / pair)
    _make_model(sample, inputs)
    make_run(inputs / "model", inputs)
    _make_writer(inputs / "writer")
    shutil.rmtree(sample)


def _shorten(gold: Path, out: Path) -> None:
    """The first pairs of a gold folder."""
    out.mkdir(parents=True)
    for path in gold.glob("test.*"):
        lines = path.read_text(encoding="utf-8").splitlines()[:GOLD_PAIRS]
        (out / path.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    links = (gold / "alignv2.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in links if int(line.split()[0]) <= GOLD_PAIRS]
    (out / "alignv2.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")


def _make_model(sample: Path, inputs: Path) -> None:
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    paths = [*sorted((sample / "mono").glob("*.txt")), *sorted((inputs / "xtreme" / "tatoeba").glob("*"))]
    text = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()[:400]]
    tokenizer = train(text, 400, 0.99, 4096)
    torch.manual_seed(7)
    config: Any = XLMRobertaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=514, type_vocab_size=1, initializer_range=0.1,
    )  # fmt: skip
    XLMRobertaForMaskedLM(config).save_pretrained(inputs / "model")
    (inputs / "model" / MODEL_NAME).write_bytes(tokenizer.model)


def _make_writer(folder: Path) -> None:
    from tests.pipeline.generation_kit import module, save, tokenizer_with_tags

    tokenizer = tokenizer_with_tags()
    save(folder, module(len(tokenizer)), tokenizer, "target")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["xlm_align"]


def bytes_under(folder: Path) -> Contents:
    """Relative name → content of every file, and of every empty folder nothing."""
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() or (path.is_dir() and not any(path.iterdir()))
    }
