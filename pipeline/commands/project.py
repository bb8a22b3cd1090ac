"""The command `project`: labels of source words, carried over links to the words of a translation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_prep.files import check_output, output_file, write_text
from data_prep.standard_output import data_stream
from data_prep.tokenizers.hub import place_of
from pipeline.commands.options import DeviceOption, EncodingOption, LayerOption, MethodOption, TokenizerDir
from pipeline.commands.progress import Counted
from pipeline.finetune.files.inputs import Slice
from pipeline.finetune.files.read_tagged import Sentence
from pipeline.finetune.files.write_tagged import write_tagged
from pipeline.finetune.projecting import (
    LABELLED,
    UNLINKED,
    Labelled,
    links_of_file,
    project,
    read_labelled,
    summarise,
    told,
)
from pipeline.settings.align_options import note
from pipeline.texts.lines import kind_of
from pipeline.texts.structured import CONLLU

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.align.aligner import Aligner
    from pipeline.align.word_alignment import ScoredLinks

SourceArgument = Annotated[
    Path,
    typer.Argument(help="source sentences with labels: `word<TAB>label` a line, .conllu (UPOS), .upos (word/TAG)"),
]
TargetArgument = Annotated[
    Path, typer.Argument(help=f"their translations: tokenised text, a sentence a line, or {', '.join(LABELLED)}")
]
LinksOption = Annotated[
    Path | None, typer.Option(help="their links, as `align` and other aligners write them; or give --model")
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        parser=place_of,
        help="align by this model: a folder, run, checkpoint or a model of the hub, as `align` takes",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="write there, by its name .conllu or .upos, else `word<TAB>label`; default: print")
]
ColumnOption = Annotated[
    int | None,
    typer.Option(
        help="SOURCE and --gold have more columns: the label's, from 1, or -1 for the last", show_default=False
    ),
]
UnlinkedOption = Annotated[
    str | None,
    typer.Option(help="tag of target words that no source word is linked to; default: _", show_default=False),
]
GoldOption = Annotated[Path | None, typer.Option(help="right labels of the target: score against them")]
ItemsOption = Annotated[str | None, typer.Option(help="FIRST-LAST: these sentences alone, counted from 1")]
ReverseOption = Annotated[bool, typer.Option("--reverse", help="--links are `target-source`: turn each round")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="write counts and scores to this file")]


def project_command(
    source: SourceArgument,
    target: TargetArgument,
    links: LinksOption = None,
    model: ModelOption = None,
    out: OutOption = None,
    column: ColumnOption = None,
    unlinked: UnlinkedOption = None,
    gold: GoldOption = None,
    items: ItemsOption = None,
    reverse: ReverseOption = False,
    layer: LayerOption = None,
    method: MethodOption = None,
    encoding: EncodingOption = None,
    device: DeviceOption = "auto",
    tokenizer: TokenizerDir = None,
    json_file: JsonOption = None,
) -> None:
    """Give target words the labels of the source words that they are linked to: tags such as POS, or spans (B-PER, I-PER, O).

    A word takes the tag of the source word that it is linked to with the highest score. A span becomes the target words linked
    to it, from the first to the last; docs/aligner.md has the rules.

    Example: python -m pipeline project train.en.conll train.de --model hf/base --out train.de.tsv
    """
    if (links is None) == (model is None):
        raise ValueError("give --links FILE or --model DIR, one of them")
    _check_used(links is None, reverse, layer=layer, method=method, encoding=encoding, tokenizer=tokenizer)
    inputs = [path for path in (source, target, links, gold) if path is not None]
    for path in (out, json_file):
        if path is not None:
            check_output(path, inputs)
    part = Slice.parse("--items", items)
    labelled = read_labelled(source, target, gold, column, part)
    if labelled.as_spans:
        _check_spans(unlinked, out)
    if links is not None:
        found, notes = links_of_file(links, labelled, f"{source} and {target}", reverse, part)
        for said in notes:
            print(f"note: {links}: {said}", file=sys.stderr)
        projected = project(labelled, found, unlinked or UNLINKED)
    else:
        from pipeline.align.aligner import Aligner

        assert model is not None, "one of the two was given"
        aligner = Aligner.load(model, layer, tokenizer_dir=tokenizer, device=device, method=method, encoding=encoding)
        print(f"note: {note(aligner.options)}", file=sys.stderr)
        projected = project(labelled, _aligned(aligner, labelled), unlinked or UNLINKED)
    with ExitStack() as ends:
        stream = data_stream() if out is None else ends.enter_context(output_file(out, inputs))
        sentences = (Sentence(words, of.labels) for words, of in zip(labelled.target, projected, strict=True))
        write_tagged(sentences, stream, "" if out is None else kind_of(out))
    summary = summarise(labelled, projected)
    print(told(summary), file=sys.stderr)
    if json_file is not None:
        write_text(json_file, json.dumps(summary, indent=1) + "\n")


def _check_spans(unlinked: str | None, out: Path | None) -> None:
    """ValueError where what is asked for is of tags alone."""
    if unlinked is not None:
        raise ValueError(f"--unlinked {unlinked}: the labels are spans, and words in none are O; leave it out")
    if out is not None and kind_of(out) == CONLLU:
        raise ValueError(f"{out}: CoNLL-U has a column for tags and none for spans; give {out.with_suffix('.tsv')}")


def _check_used(by_model: bool, reverse: bool, **of_model: object) -> None:
    """ValueError where an option is given that would do nothing."""
    given = [name for name, value in of_model.items() if value is not None]
    if not by_model and given:
        raise ValueError(f"--{given[0]}: with --links no model aligns; leave it out")
    if by_model and reverse:
        raise ValueError("--reverse: is for --links; leave it out")


def _aligned(aligner: Aligner, labelled: Labelled) -> Iterator[ScoredLinks]:
    with Counted("aligning", "sentences") as progress:
        for number, links in enumerate(aligner.stream(labelled.pairs, scored=True), start=1):
            yield links
            progress.show(number, number / len(labelled.target))
