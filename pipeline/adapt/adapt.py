"""The way from text to an adapted aligner: token files, figures before, training, figures after, export, table and picture.

Token files, training and export are the public commands. Token files, figures and steps that are there are not made again, so
that the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from data_prep.files import sha256_of_json, write_text
from data_prep.standard_output import print_table, put
from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline import shipped
from pipeline.adapt.measure import WAYS, Measured, measure, options_of, rows
from pipeline.adapt.request import Request
from pipeline.align.aligner import Aligner
from pipeline.align.word_alignment import WordLinks
from pipeline.cluster.finished import finished
from pipeline.data.streams import open_streams
from pipeline.evaluate.gold import Gold, WordLink
from pipeline.model.devices import AUTO, choose_place
from pipeline.settings.align_options import resolve
from pipeline.settings.schema import Config, load_config
from pipeline.show.fonts import MissingFontsError
from pipeline.show.picture import draw_alignments
from pipeline.stages import PYTHON, run_stage
from pipeline.texts.word_splitting import split_raw
from pipeline.weights.loading import load
from pipeline.weights.model_record import write_options
from pipeline.weights.opening import open_weights

RECIPE = shipped.CONFIGS / "adapt.yaml"
SUMMARY, PICTURE = "summary.json", "alignment.png"
WORDS_DRAWN, TOKENS_DRAWN, FIRST_PAIRS, LONGEST = 20, 30, 200, 254


def adapt(request: Request, out: Path, golds: Sequence[Gold], workers: int) -> None:
    """Everything under `out`: tokenizer, data, run, model, summary.json and alignment.png.

    Raises:
        ValueError: a stage failed or was stopped; one line says which. The same command goes on.
    """
    request.keep(out)
    tokenize(request, out, workers)
    opened = open_weights(Path(request.model), whole=False)
    aligns_at = resolve(opened.sizes.layers, opened.record.options).layer
    settings = overrides(request, out, aligns_at, opened.sizes.layers)
    config = load_config(RECIPE, settings)
    before = figures("before", Path(request.model), aligns_at, config, golds, out)
    train(config, settings)
    assert config.objectives.token_contrast is not None
    after = figures("after", out / "run", config.objectives.token_contrast.layer, config, golds, out)
    export(out, after)
    summarize(request, config, golds, before, after, out)


def tokenize(request: Request, out: Path, workers: int) -> None:
    """The model's tokenizer, and the pairs as token files; texts that are there already are left as they are."""
    open_weights(Path(request.model), whole=False).tokenizer().save(out / "tokenizer")
    common = ["--tokenizer", str(out / "tokenizer"), "--out", str(out / "data"), "--workers", str(workers)]
    command = ["mix"] if request.pair is None else ["parallel"]
    languages = [] if request.pair is None else ["--pair", request.pair]
    links = [] if request.links is None else ["--links", request.links]
    run_stage("token files", [*PYTHON, "data_prep", *command, *request.texts, *languages, *links, *common])


def overrides(request: Request, out: Path, aligns_at: int, layers: int) -> list[str]:
    """What the recipe is told: places, length, layers that suit the model, and whether labels were given.

    aligns_at: the layer at which the model's words align. It labels, and the one above it, of so many, is contrasted.
    """
    labels = labels_of(Manifest.load(out / "data"))
    settings: dict[str, Any] = {
        "data.path": out / "data",
        "model.init": request.model,
        "objectives.token_contrast.layer": min(aligns_at + 1, layers),
        "objectives.token_contrast.label_layer": aligns_at if labels == "self" else "null",
        "objectives.token_contrast.labels": labels,
        "run.out": out / "run",
        "run.steps": request.steps,
        "run.seed": request.seed,
    }
    place = choose_place(AUTO, AUTO)
    if place.device.type == "cuda":
        precision = "bf16" if place.dtype is torch.bfloat16 else "fp16"
        settings["deepspeed"] = shipped.DEEPSPEED_JSONS / f"zero1_{precision}.json"
    return [f"{key}={value}" for key, value in settings.items()]


def labels_of(manifest: Manifest) -> str:
    """Given links where all pairs have some, the model's own where none has; ValueError where some have."""
    has_links = {name: {shard.has_links for shard in shards} for name, shards in manifest.pairs.items()}
    kinds = set().union(*has_links.values())
    if len(kinds) > 1:
        name = next(name for name, found in has_links.items() if False in found)
        raise ValueError(
            f"{manifest.data_dir}: some pairs have word links and others, of {name}, have none; give links for all or for none"
        )
    return "links" if kinds == {True} else "self"


def train(config: Config, settings: Sequence[str]) -> None:
    """Train to the last step, or go on, on one GPU or one process of the CPU; not again what is finished."""
    if finished(config):
        return
    launch = [*PYTHON, "pipeline.cluster.launch", "train", str(RECIPE), "--resume", "auto", "--num_accelerators", "1"]
    run_stage("training", [*launch, *settings], threads=None)
    if not finished(config):
        raise ValueError(f"training was stopped before its last step; the same command goes on from {config.run.out}")


def figures(name: str, model: Path, layer: int, config: Config, golds: Sequence[Gold], out: Path) -> Measured:
    """What is measured of a model, kept in the folder so that it is measured once. layer: see `measure`."""
    kept = out / f"{name}.json"
    asked = sha256_of_json([[way.method for way in WAYS], *(as_plain(gold) for gold in golds)])
    if kept.is_file():
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content.pop("gold") == asked:
            return Measured(**content)
    print(f"measuring the model {name} training …", file=sys.stderr, flush=True)
    loaded = load(model).to(choose_place(AUTO, "fp32"))
    measured = measure(loaded, layer, golds, config.data.path, config.data.side_tokens)
    write_text(kept, json.dumps({"gold": asked, **measured.as_json()}, indent=1) + "\n")
    return measured


def as_plain(gold: Gold) -> list[Any]:
    """All that a measure depends on."""
    links = [[sorted(of_pair) for of_pair in kind] for kind in (gold.sure, gold.possible)]
    return [gold.source_language, gold.target_language, gold.source, gold.target, *links]


def export(out: Path, after: Measured) -> None:
    """The model with the layer that was chosen, as a Hugging Face folder."""
    run, model = out / "run", out / "model"
    loaded = open_weights(run, whole=False)
    write_options(run, options_of(after, resolve(loaded.sizes.layers, loaded.record.options)))
    force = ["--force"] if model.exists() else []
    run_stage("export", [*PYTHON, "pipeline", "export", str(run), str(model), *force])


def summarize(
    request: Request, config: Config, golds: Sequence[Gold], before: Measured, after: Measured, out: Path
) -> None:
    """The table at the end, the same as JSON, and a pair's links before and after as a picture."""
    drawn = Table(
        "", "before", "after", title=f"{request.model}, adapted by {config.run.steps} steps", title_justify="left"
    )
    for what, was, is_now in rows(before, after):
        drawn.add_row(what, f"{was:.2f}", f"{is_now:.2f}")
    drawn.add_row("layer", str(before.layer), str(after.layer))
    drawn.add_row("method", before.method, after.method)
    content = {
        "steps": config.run.steps,
        "pairs": config.batch.pairs * config.run.steps,
        "before": before.as_json(),
        "after": after.as_json(),
    }
    write_text(out / SUMMARY, json.dumps(content, indent=1) + "\n")
    picture = draw(request, golds, before, after, out)
    print_table(drawn)
    if not golds:
        print("note: agreement is no error rate; give --gold FOLDER to measure AER", file=sys.stderr)
    for name, path in (("model", out / "model"), ("figures", out / SUMMARY), *picture):
        put(f"{name}: {path}")
    print(f"next: xlm-align align {out / 'model'} SOURCE TARGET > links.pharaoh", file=sys.stderr)


def draw(
    request: Request, golds: Sequence[Gold], before: Measured, after: Measured, out: Path
) -> list[tuple[str, Path]]:
    """One pair: of gold the one with most links that still fits a page, else one of the training text."""
    source, target, sure = gold_pair(golds) if golds else training_pair(out)
    links: list[WordLinks] = []
    for model, measured in ((Path(request.model), before), (out / "model", after)):
        aligner = Aligner.load(model, measured.layer, method=measured.method, encoding="separate")
        links += aligner.align([(source, target)])
    try:
        draw_alignments(source, target, sure, links, out / PICTURE)
    except MissingFontsError as error:
        print(f"note: no picture: {error}", file=sys.stderr)
        return []
    return [("picture", out / PICTURE)]


def gold_pair(golds: Sequence[Gold]) -> tuple[list[str], list[str], Collection[WordLink]]:
    """Words of source and target, and the sure links."""
    short = [(g, pair) for g in golds for pair in range(len(g)) if len(g.source[pair]) <= WORDS_DRAWN]
    gold, pair = max(short, key=lambda each: len(each[0].sure[each[1]]), default=(golds[0], 0))
    return gold.source[pair], gold.target[pair], gold.sure[pair]


def training_pair(out: Path) -> tuple[list[str], list[str], Collection[WordLink]]:
    """The same of the longest of the first pairs that still fits a page, without links: of text nobody knows them."""
    manifest, tokenizer = Manifest.load(out / "data"), Tokenizer.load(out / "tokenizer")
    stream = open_streams(manifest, ["pairs"], alpha=1.0, seed=0, limits={"pairs": LONGEST})["pairs"]
    first = stream.head(0, np.arange(min(FIRST_PAIRS, stream.counts[0])))
    assert first.side_lengths_S2 is not None
    short = np.flatnonzero(first.side_lengths_S2.max(axis=1) <= TOKENS_DRAWN)
    pair = int(short[first.lengths_S[short].argmax()] if len(short) else first.lengths_S.argmin())
    ids, length = first.ids[pair].tolist(), int(first.side_lengths_S2[pair, 0])
    source, target = (split_raw(tokenizer.decode(side)) for side in (ids[1 : length + 1], ids[length + 2 : -1]))
    return source, target, ()
