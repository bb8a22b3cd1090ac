"""The command `evaluate`: alignment error rate, sentence retrieval and perplexity of a model, as tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_prep.files import check_output, write_text
from data_prep.standard_output import data_console
from pipeline.commands.measures import (
    Panel,
    evaluate_ways,
    measure_perplexity,
    retrieve_at_all_layers,
    retrieve_by_protocol,
    score_of,
)
from pipeline.commands.options import (
    CostOption,
    DeviceOption,
    DtypeOption,
    EncodingOption,
    FromOneOption,
    MethodOption,
    ModelDir,
    PredictionsOption,
    ProtocolLayerOption,
    ProtocolOption,
    TokenizerDir,
    settings_of,
)
from pipeline.settings.align_options import Chosen

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.evaluate.gold import Gold
    from pipeline.model.devices import Place
    from pipeline.texts.sentence_files import Sentences

GoldOption = Annotated[
    list[Path] | None,
    typer.Option(help="folder with test.<src>, test.<trg>, alignv2.txt, or of such folders; may be repeated"),
]
RetrievalOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="line-aligned files or their folder, as PUD, Tatoeba, FLORES or NTREX name them; may be repeated"
    ),
]
ScoreOption = Annotated[
    str,
    typer.Option(
        help="of retrieval: cosine; or margin, which the 4 nearest sentences on both sides are weighed against"
    ),
]
RecordOption = Annotated[
    bool,
    typer.Option(
        "--record",
        help="keep the best layer, by the mean AER over all of --gold, with the model, where align, show and demo find it; "
        "without --method, --encoding and --cost the better of ot-filter, joint and argmax, separate is kept too",
    ),
]


@dataclass(frozen=True)
class Request:
    """What is to be measured of which model, as the options say it."""

    hf_dir: Path
    tokenizer: Path | None
    gold: list[Path]
    from_one: bool | None
    way: Chosen
    record: bool
    retrieval: list[Path]
    sentences: int | None
    protocol: str | None
    layer: int | None
    score: str
    predictions: Path | None
    perplexity: Path | None
    blocks: int


def evaluate_command(
    hf_dir: ModelDir,
    gold: GoldOption = None,
    from_one: FromOneOption = None,
    retrieval: RetrievalOption = None,
    sentences: Annotated[
        int | None, typer.Option(min=1, help="first so many of each retrieval pair; default: all")
    ] = None,
    protocol: ProtocolOption = None,
    layer: ProtocolLayerOption = None,
    score: ScoreOption = "cosine",
    predictions: PredictionsOption = None,
    perplexity: Annotated[Path | None, typer.Option(help="DATA_DIR of held-out text; needs the masked-LM head")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")] = None,
    picture: Annotated[Path | None, typer.Option(help="draw AER and retrieval over layers there, a PNG")] = None,
    method: MethodOption = None,
    encoding: EncodingOption = None,
    cost: CostOption = None,
    record: RecordOption = False,
    blocks: Annotated[int, typer.Option(min=1, help="blocks per language for the perplexity")] = 256,
    tokenizer: TokenizerDir = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Print AER, the alignment error rate, of every layer against manual word alignments; retrieval and perplexity too.

    Example: python -m pipeline evaluate hf/base --gold gold/en-cs --gold gold/en-de --json aer.json
    """
    from pipeline.model.devices import choose_place
    from pipeline.show.picture import draw_layers

    way, gold, retrieval = Chosen(None, method, encoding, settings_of(cost)), gold or [], retrieval or []
    request = Request(
        hf_dir, tokenizer, gold, from_one, way, record, retrieval, sentences, protocol, layer, score, predictions,
        perplexity, blocks,
    )  # fmt: skip
    _check(request, json_file, picture)
    entries, panels = _measure(request, choose_place(device, dtype))
    if json_file is not None:
        write_text(json_file, json.dumps(entries, indent=1) + "\n")
    if picture is not None:
        draw_layers(panels, picture)


def _measure(request: Request, place: Place) -> tuple[list[dict[str, Any]], list[Panel]]:
    """The entries of the JSON file, and the curves over layers; all is read before anything is measured."""
    from pipeline.evaluate.protocols import choose
    from pipeline.weights.loading import load

    golds, texts = _read_texts(request)
    loaded = load(request.hf_dir, request.tokenizer, with_head=request.perplexity is not None).to(place)
    score = score_of(request.score)
    applied = None if request.protocol is None else choose(request.protocol, request.layer, loaded)
    console = data_console()
    entries: list[dict[str, Any]] = []
    panels: list[Panel] = []
    if golds:
        record_in = request.hf_dir if request.record else None
        entries, panels = evaluate_ways(console, loaded, golds, request.way, place, record_in)
    if texts and applied is not None:
        entries += retrieve_by_protocol(console, loaded, texts, applied, score, request.predictions)
    elif texts:
        measured, panel = retrieve_at_all_layers(console, loaded, texts, score)
        entries += measured
        panels.append(panel)
    if request.perplexity is not None:
        entries += measure_perplexity(console, loaded, request.hf_dir, request.perplexity, request.blocks)
    return entries, panels


def _check(request: Request, json_file: Path | None, picture: Path | None) -> None:
    """ValueError, before anything is read, where options do not go together or an output cannot be written."""
    from pipeline.evaluate.alignment_error import gold_folders
    from pipeline.weights.model_record import check_recordable

    gold, retrieval = request.gold, request.retrieval
    if not gold and not retrieval and request.perplexity is None:
        raise ValueError("evaluate: nothing to measure; give --gold, --retrieval or --perplexity")
    _check_retrieval(request)
    if picture is not None and not gold and (not retrieval or request.protocol is not None):
        raise ValueError(
            f"--picture {picture}: only AER and retrieval have layers; give --gold, or --retrieval without --protocol, too"
        )
    if request.record and not gold:
        raise ValueError("--record: only AER tells how words align best; give --gold too")
    _check_outputs((json_file, picture), (request.hf_dir, *gold_folders(gold), *retrieval))
    if request.record:
        check_recordable(request.hf_dir)


def _check_retrieval(request: Request) -> None:
    """The same of what concerns retrieval alone."""
    from pipeline.evaluate.protocols import check_name

    check_name(request.protocol, request.layer)
    score_of(request.score)
    if request.protocol is not None and not request.retrieval:
        raise ValueError(f"--protocol {request.protocol}: is of --retrieval; give the sentences' files too")
    if request.predictions is not None and request.protocol is None:
        raise ValueError(
            f"--predictions {request.predictions}: are those of one layer; give --protocol too, as --protocol xtreme"
        )


def _read_texts(request: Request) -> tuple[list[Gold], list[Sentences]]:
    """The gold pairs, with notes on them, and the sentences."""
    from pipeline.evaluate.alignment_error import gold_folders
    from pipeline.evaluate.gold import read_gold
    from pipeline.evaluate.protocols import tatoeba_files
    from pipeline.texts.sentence_files import find_pairs

    golds = [read_gold(folder, from_one=request.from_one) for folder in gold_folders(request.gold)]
    for remark in (remark for each in golds for remark in each.notes):
        print(f"note: {remark}", file=sys.stderr)
    texts = find_pairs(*request.retrieval)
    if request.predictions is not None:
        _check_outputs(tatoeba_files(request.predictions, texts), [path for pair in texts for path in pair.paths])
    return golds, texts if request.sentences is None else [pair.loaded(request.sentences) for pair in texts]


def _check_outputs(files: Sequence[Path | None], inputs: Sequence[Path]) -> None:
    """Try the places of the files before anything is measured; no file of the inputs is written over."""
    given = [path for place in inputs for path in (sorted(place.iterdir()) if place.is_dir() else [place])]
    for file in files:
        if file is not None:
            check_output(file, given)
