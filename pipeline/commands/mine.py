"""The command `mine`: translations among the sentences of two files, and how many of them are gold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from data_prep.files import check_output, output_file, write_text
from data_prep.standard_output import data_stream, put
from pipeline.commands.options import (
    PROTOCOL_HELP,
    DeviceOption,
    DtypeOption,
    ModelDir,
    PredictionsOption,
    ProtocolLayerOption,
    TokenizerDir,
)
from pipeline.commands.progress import Counted

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from torch import Tensor

    from pipeline.evaluate.mining import MinedPair, MiningScore
    from pipeline.evaluate.protocols import AppliedProtocol
    from pipeline.evaluate.retrieval import SentencePooler
    from pipeline.model.devices import Place
    from pipeline.texts.identified import Identified
    from pipeline.weights.loading import LoadedModel

    Sides = tuple[Identified, Identified]

SENTENCES_AT_ONCE = 512
"""That are encoded between two reports of progress."""


def mine_command(
    model: ModelDir,
    source: Annotated[Path, typer.Argument(help="sentences of one language, `id<TAB>sentence` or a sentence a line")],
    target: Annotated[Path, typer.Argument(help="sentences of the other language, in no order")],
    gold: Annotated[
        Path | None, typer.Option(help="pairs of ids, `id<TAB>id`, that choose the threshold and tell F1")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="least margin of a pair; default: the best by --gold, else all pairs are written"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="file for the pairs; default: standard output")] = None,
    predictions: PredictionsOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")] = None,
    protocol: Annotated[str, typer.Option(help=PROTOCOL_HELP)] = "xtreme",
    layer: ProtocolLayerOption = None,
    neighbours: Annotated[int, typer.Option(min=1, help="k of the margin")] = 4,
    tokenizer: TokenizerDir = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Find translations in two files of sentences by ratio margin: `margin id id source target` a line, tabs between.

    Example: python -m pipeline mine hf/base de-en.dev.de de-en.dev.en --gold de-en.dev.gold > mined.tsv
    """
    from pipeline.evaluate.protocols import check_name, choose
    from pipeline.model.devices import choose_place
    from pipeline.texts.identified import read_gold_pairs, read_identified
    from pipeline.weights.loading import load

    check_name(protocol, layer)
    if json_file is not None and gold is None:
        raise ValueError(f"--json {json_file}: scores are against gold pairs; give --gold too")
    of_xtreme = None if predictions is None else _prediction_file(predictions, source)
    for file in filter(None, (out, json_file, of_xtreme)):
        check_output(file, filter(None, (source, target, gold)))
    sides = read_identified(source), read_identified(target)
    wanted = None if gold is None else read_gold_pairs(gold, *sides)
    place = choose_place(device, dtype)
    loaded = load(model, tokenizer).to(place)
    applied = choose(protocol, layer, loaded)
    print(f"note: {applied.name}: {applied.vectors}", file=sys.stderr)
    pairs = _mine(sides, loaded, applied, place, neighbours)
    score = None if wanted is None else _score(pairs, sides, wanted, threshold)
    least = threshold if score is None else score.threshold
    taken = [pair for pair in pairs if least is None or pair.margin >= least]
    _write_pairs(out, taken, sides)
    _write_results(taken, sides, of_xtreme, score, json_file)
    if score is not None:
        _say(score, sys.stderr if out is None else None)


def _prediction_file(folder: Path, source: Path) -> Path:
    """XTREME's name for what is mined from a file; ValueError where the file's name does not end with its language."""
    from pipeline.evaluate.xtreme_files import BUCC, prediction_file

    if not source.suffix[1:]:
        raise ValueError(f"--predictions {folder}: is by language, and {source} names none at its end; call it NAME.de")
    return prediction_file(folder, BUCC, source.suffix[1:])


def _mine(
    sides: Sides, loaded: LoadedModel, applied: AppliedProtocol, place: Place, neighbours: int
) -> list[MinedPair]:
    """Mined pairs, with progress on standard error, and notes on what takes no part."""
    from pipeline.evaluate.mining import distinct, mine
    from pipeline.evaluate.protocols import pooler_of

    source, target = map(distinct, sides)
    pooler = pooler_of(loaded, applied)
    total = len(source.texts) + len(target.texts)
    with Counted("encoding", "sentences") as bar:
        source_SD = _vectors(pooler, source.texts, lambda count: bar.show(count, count / total))
        target_TD = _vectors(
            pooler, target.texts, lambda count: bar.show(len(source_SD) + count, (len(source_SD) + count) / total)
        )
    with Counted("comparing", "sentences") as bar:
        pairs = mine(
            source, target, source_SD, target_TD, neighbours, place.device, lambda count: bar.show(count, count / total)
        )
    notes = [f"{side.path}: has no tabs; the numbers of its lines are the ids" for side in sides if side.numbered]
    if pooler.cut:
        notes.append(f"{pooler.cut:,} sentences are longer than the model's positions and were cut")
    if repeated := source.repeated + target.repeated:
        notes.append(
            f"{repeated:,} texts stand in their file several times and are in no pair, for no id is theirs alone"
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return pairs


def _vectors(pooler: SentencePooler, texts: Sequence[str], encoded: Callable[[int], None]) -> Tensor:
    """fp32 [S, D], of length 1."""
    import torch

    parts: list[Tensor] = []
    for first in range(0, len(texts), SENTENCES_AT_ONCE):
        parts += pooler.vectors(texts[first : first + SENTENCES_AT_ONCE])
        encoded(sum(map(len, parts)))
    return torch.cat(parts)


def _score(
    pairs: Sequence[MinedPair], sides: Sides, gold: set[tuple[str, str]], threshold: float | None
) -> MiningScore:
    """Against gold, at the threshold that was given or the best one."""
    from pipeline.evaluate.mining import are_gold, best_threshold, score_at

    right = are_gold(pairs, *sides, gold)
    margins = [pair.margin for pair in pairs]
    if threshold is None:
        threshold = best_threshold(margins, right, len(gold))
    return score_at(threshold, margins, right, len(gold))


def _write_pairs(out: Path | None, pairs: Sequence[MinedPair], sides: Sides) -> None:
    """The pairs, the largest margin first, to a file or to standard output."""
    source, target = sides
    with nullcontext(data_stream()) if out is None else output_file(out) as file:
        for pair in pairs:
            ids = f"{source.ids[pair.source]}\t{target.ids[pair.target]}"
            file.write(f"{pair.margin:.6f}\t{ids}\t{source.texts[pair.source]}\t{target.texts[pair.target]}\n")


def _write_results(
    pairs: Sequence[MinedPair],
    sides: Sides,
    of_xtreme: Path | None,
    score: MiningScore | None,
    json_file: Path | None,
) -> None:
    """The pairs' ids as XTREME scores them, and our scores."""
    from pipeline.evaluate.xtreme_files import write_id_pairs

    source, target = sides
    if of_xtreme is not None:
        write_id_pairs(of_xtreme, ((source.ids[pair.source], target.ids[pair.target]) for pair in pairs))
    if json_file is not None and score is not None:
        entry = {"kind": "mining", "source": str(source.path), "target": str(target.path), **score.as_json()}
        write_text(json_file, json.dumps(entry, indent=1) + "\n")


def _say(score: MiningScore, file: TextIO | None) -> None:
    """How good the pairs are, in a line; file: None for standard output."""
    shares = ", ".join(
        f"{name} {100 * share:.2f} %"
        for name, share in (("F1", score.f1), ("precision", score.precision), ("recall", score.recall))
    )
    found = f"{score.right:,} of {score.gold:,} gold pairs among {score.pairs:,}"
    line = f"{shares}; {found}, threshold {score.threshold:.6f}"
    if file is None:
        put(line)
    else:
        print(line, file=file)
