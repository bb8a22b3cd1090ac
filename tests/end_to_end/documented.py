"""The commands that README and the pages of docs/ tell a user to type, and a folder in which they can be typed.

The folder lies outside the clone and holds files with the names that the pages use: real corpora where `../shared` is, else the
generated one. What a test has less of than a user is text, time, memory and devices: `SMALLER` says where.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import zstandard
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from data_prep.tokenizers.tokenizer import Tokenizer
from tests.end_to_end.conftest import REPOSITORY

PAGES = (
    "README.md",
    "docs/pretraining.md",
    "docs/continuing.md",
    "docs/aligner.md",
    "docs/evaluating.md",
    "docs/data.md",
    "docs/scaling.md",
)
_PROGRAMS = ("./launch.sh ", "python ", "xlm-align ", "hf ", "cat ", "mpiexec ")

NOT_RUN = {
    "hf download": "there is no network: the folder is there as if it had been downloaded",
    " demo ": "it serves until it is stopped, and has tests of its own",
    " --peers ": "the other aligners are not installed here",
    "align_memory": "a million pairs",
    "--format dataset": "the data set is on the hub",
    "mpiexec --hostfile": "it is for several machines, which tests/cluster has",
    "finetune": "tests/finetune has these",
}
"""What of a command says that it is not typed here, and why."""

VOCABULARY = "120"
"""Words that a tokenizer can have of texts as small as these, whether they are real or generated."""
SMALLER = {
    "./launch.sh quickstart": "./launch.sh quickstart --steps 20",
    "./launch.sh": f"'{REPOSITORY / 'launch.sh'}'",
    "--vocab-size 32000": f"--vocab-size {VOCABULARY}",
    "--vocab-size 8000": f"--vocab-size {VOCABULARY}",
    "--workers 8": "--workers 2",
    "mpiexec -n 4": "mpiexec -n 2",
    "/shared/data": "shared-data",
    "generate hf/translator": "generate hf/translator --beam 1 --max-tokens 5",
}
SMALLER_TRAINING = (
    "batch.mono=8 batch.pairs=8 batch.micro_steps=2 run.log_every=1 "
    f"'deepspeed={REPOSITORY / 'ds_configs' / 'zero2_fp32.json'}'"
)


def commands(page: str) -> list[str]:
    """The commands in a page's blocks, in order; one that is broken over lines is whole."""
    fence, lines = "", []
    for line in (REPOSITORY / page).read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        elif fence == "```" and line.startswith(_PROGRAMS):
            lines.append(line)
    return lines


def runnable(pages: Sequence[str] = PAGES) -> list[str]:
    """Every command that is typed here, once, in the order of the pages."""
    found = dict.fromkeys(command for page in pages for command in commands(page))
    return [command for command in found if not any(part in command for part in NOT_RUN)]


@dataclass
class Workspace:
    """A user's folder."""

    folder: Path
    port: int

    @property
    def run(self) -> Path:
        """Where README's pretraining writes."""
        return self.folder / "runs" / "base"

    def words(self, command: str, *more: str) -> list[str]:
        """The command as it is typed here, with what a training needs less of."""
        for written, here in SMALLER.items():
            command = re.sub(rf"(?<![\w/-]){re.escape(written)}(?![\w-])", lambda _, text=here: text, command)
        if " train " in command and "tokenizer" not in command:
            # The hosts file names this machine only, which need not run an ssh server.
            ranks = "--master_addr=127.0.0.1 --no_ssh_check" if "--hostfile" in command else "--num_accelerators 2"
            command = " ".join([command, f"--master_port {self.port}", ranks, SMALLER_TRAINING, *more])
        return ["bash", "-c", command]

    def logged_steps(self) -> list[int]:
        """Optimizer steps in the run's metrics, in the order of the lines."""
        file = self.run / "metrics.jsonl"
        lines = map(json.loads, file.read_text(encoding="utf-8").splitlines()) if file.exists() else []
        return [line["step"] for line in lines if line["kind"] == "train"]


def real_lines(shared: Path, language: str, first: int, last: int) -> list[str]:
    """Lines of Multi30k's training set, which are aligned over its languages."""
    text = (shared / "data" / "multi30k" / f"train.{language}").read_text(encoding="utf-8")
    return text.splitlines(keepends=True)[first:last]


def make_files(folder: Path, sample: Path, shared: Path | None) -> None:
    """Write what the pages name into `folder`."""
    texts = _texts(sample, shared)
    for name, (first, last) in {"text": (0, 60), "corpus": (60, 140), "europarl": (140, 200)}.items():
        for language in ("en", "de"):
            (folder / f"{name}.{language}").write_text("".join(texts[language][first:last]), encoding="utf-8")
        (folder / f"{name}.pharaoh").write_text("0-0\n" * (last - first), encoding="utf-8")
    pairs = list(zip(*(texts[language][200:] for language in ("en", "de")), strict=True))
    (folder / "pairs.txt").write_text("".join(f"{a.rstrip()} ||| {b}" for a, b in pairs[:20]), encoding="utf-8")
    rows = (f"{1.1 + at % 5 / 10:.1f}\t{b.rstrip()}\t{a}" for at, (a, b) in enumerate(pairs[20:60]))
    _compress(folder / "WikiMatrix.de-en.tsv.gz", "".join(rows))
    with zipfile.ZipFile(folder / "de-en.txt.zip", "w") as archive:
        for side, language in enumerate(("en", "de")):
            archive.writestr(f"OPUS.de-en.{language}", "".join(pair[side] for pair in pairs[60:100]))
    documents = (json.dumps({"text": "".join(texts["mono"][at : at + 5])}) for at in range(60, 100, 5))
    lines = "".join(f"{document}\n" for document in documents)
    (folder / "c4-de.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (folder / "cc100").mkdir()
    units = "".join(
        "<tu>" + "".join(f"<tuv xml:lang='{x}'><seg>{escape(t.strip())}</seg></tuv>" for x, t in unit) + "</tu>"
        for unit in (zip(("en", "de"), pair, strict=True) for pair in pairs[100:200])
    )
    (folder / "memory.tmx").write_text(f"<tmx version='1.4'><header/><body>{units}</body></tmx>", encoding="utf-8")
    for name, (first, last) in {
        "de.txt.xz": (0, 60),
        "en.txt.xz": (180, 240),
        "cc100/en.txt.xz": (100, 140),
        "cc100/de.txt.xz": (140, 180),
    }.items():
        _compress(folder / name, "".join(texts["mono"][first:last]))
    mix = "corpora:\n- {mono: de, files: de.txt.xz}\n- {pair: en-de, source_files: text.en, target_files: text.de}\n"
    (folder / "corpora.yaml").write_text(mix, encoding="utf-8")
    for side, language in enumerate(("en", "de")):
        rows = (f"{language}-{at}\t{pair[side]}" for at, pair in enumerate(pairs[100:140]))
        (folder / f"de-en.dev.{language}").write_text("".join(rows), encoding="utf-8")
    (folder / "de-en.dev.gold").write_text("".join(f"de-{at}\ten-{at}\n" for at in range(0, 40, 2)), encoding="utf-8")
    _make_gold(folder, sample, shared)
    _make_links_and_labels(folder, pairs[:20])
    (folder / "hosts").write_text("localhost slots=2\n", encoding="utf-8")


def _texts(sample: Path, shared: Path | None) -> dict[str, list[str]]:
    """Lines of English and German that are translations of each other, and German ones with documents among them."""
    if shared is not None:
        with lzma.open(shared / "data" / "mono_cc100style" / "de.txt.xz", "rt", encoding="utf-8") as file:
            mono = [file.readline() for _ in range(400)]
        return {**{language: real_lines(shared, language, 0, 400) for language in ("en", "de")}, "mono": mono}
    parallel = sample / "parallel"
    texts = {
        name: (parallel / f"train.qaa-qab.{code}").read_text(encoding="utf-8").splitlines(keepends=True)
        for name, code in (("en", "qaa"), ("de", "qab"))
    }
    return {**texts, "mono": texts["de"]}


def _make_gold(folder: Path, sample: Path, shared: Path | None) -> None:
    """Gold folders en-cs and en-de, and line-aligned sentences named as PUD's."""
    for name in ("cs", "de"):
        gold = folder / "gold" / f"en-{name}"
        gold.mkdir(parents=True)
        source = sample / "gold" / "qaa-qab" if shared is None else shared / "data" / "gold_alignments_dev" / "en-nl"
        first, second = ("qaa", "qab") if shared is None else ("en", "nl")
        (gold / "alignv2.txt").write_bytes((source / "alignv2.txt").read_bytes())
        (gold / "test.en").write_bytes((source / f"test.{first}").read_bytes())
        (gold / f"test.{name}").write_bytes((source / f"test.{second}").read_bytes())
    (folder / "pud").mkdir()
    for language in ("en", "de"):
        place = folder / f"text.{language}" if shared is None else shared / "data" / "pud" / f"pud.{language}"
        lines = place.read_text(encoding="utf-8").splitlines(keepends=True)[:20]
        (folder / "pud" / f"pud.{language}").write_text("".join(lines), encoding="utf-8")


def _make_links_and_labels(folder: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Pairs as JSON lines, links of theirs in two directions, and names marked in their first side."""
    records = ({"source": first.strip(), "target": second.strip()} for first, second in pairs)
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    for name in ("forward", "backward", "names"):
        (folder / f"{name}.links").write_text("0-0\n" * len(pairs), encoding="utf-8")
    marked = (
        "".join(f"{word}\t{'O' if at else 'B-PER'}\n" for at, word in enumerate(first.split())) for first, _ in pairs
    )
    (folder / "names.en.tsv").write_text("\n".join(marked), encoding="utf-8")
    (folder / "names.de").write_text("".join(second for _, second in pairs), encoding="utf-8")


def _compress(path: Path, text: str) -> None:
    compress = lzma.compress if path.suffix == ".xz" else gzip.compress
    path.write_bytes(compress(text.encode()))


def make_model(folder: Path) -> None:
    """A tiny untrained model with XLM-R's layers and a small tokenizer of its kind: what `hf download` would bring.

    Of XLM-R's own 250,000 words every training would spend most of its time on the rows that no text here has.
    """
    model = folder / "xlm-roberta-base"
    train = [sys.executable, "-m", "data_prep", "tokenizer", "train", "text.en", "text.de", "--vocab-size", VOCABULARY]
    subprocess.run([*train, "--out", "first"], cwd=folder, check=True, capture_output=True)
    tokenizer_file = folder / "first" / "sentencepiece.bpe.model"
    tiny = XLMRobertaConfig(
        vocab_size=Tokenizer(tokenizer_file.read_bytes()).vocab_size,
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    XLMRobertaForMaskedLM(tiny).save_pretrained(model)
    for place in (model / "sentencepiece.bpe.model", folder / "sentencepiece.bpe.model"):
        shutil.copyfile(tokenizer_file, place)


def environment(tools: Path) -> dict[str, str]:
    """What `source .venv/bin/activate` and a machine without a GPU give a command."""
    return {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
