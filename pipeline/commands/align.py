"""The command `align`: sentence pairs in, word links out, one line a pair."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files import check_output, output_file
from data_prep.standard_output import data_stream, put
from pipeline.align.output import Remembered, Writing, closing_line
from pipeline.commands.options import (
    CostOption,
    DeviceOption,
    DtypeOption,
    EncodingOption,
    LayerOption,
    MethodOption,
    ModelDir,
    TokenizerDir,
    settings_of,
)
from pipeline.commands.pair_options import (
    FieldsOption,
    FormatOption,
    KeepSpacePiecesOption,
    MaxBadRateOption,
    MinScoreOption,
    NullOption,
    RawOption,
    ScoresOption,
    SourceText,
    SplitOption,
    SureScoreOption,
    TargetText,
    WindowOption,
    WordsOption,
    fields_of,
)
from pipeline.commands.progress import Counted
from pipeline.settings.align_options import WINDOW, note
from pipeline.texts.arriving import Arriving
from pipeline.texts.raw_text import RawTextWatch
from pipeline.texts.sentence_pairs import PairReader, WordPair

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.align.aligner import Aligner


def align_command(
    hf_dir: ModelDir,
    source: SourceText,
    target: TargetText = None,
    layer: LayerOption = None,
    method: MethodOption = None,
    encoding: EncodingOption = None,
    cost: CostOption = None,
    raw: RawOption = False,
    fields: FieldsOption = None,
    link_format: FormatOption = "pharaoh",
    scores: ScoresOption = False,
    words: WordsOption = False,
    null: NullOption = False,
    min_score: MinScoreOption = None,
    sure_score: SureScoreOption = None,
    split: SplitOption = None,
    max_bad_rate: MaxBadRateOption = 0.0,
    keep_space_pieces: KeepSpacePiecesOption = False,
    window: WindowOption = WINDOW,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    tokenizer: TokenizerDir = None,
) -> None:
    """Print the word links of each pair in Pharaoh format (`i-j`, words counted from 0), one line a pair, or in another.

    Layer, method and encoding are those recorded with the model, else those that suit a plain checkpoint (XLM-R, a sentence
    encoder): argmax, separate, a little above the middle, layer 7 of 12. One trained with XLM-Align aligns best by ot-filter,
    joint, at the layer that it was trained at. itermax and match find more links than argmax, and more wrong ones.
    `evaluate --gold DIR --record` measures all layers and records the best.

    Example: python -m pipeline align hf/base text.en text.de --raw > links.pharaoh
    """
    writing = Writing(link_format, scores, words, null, min_score, sure_score)
    reader = PairReader(source, target, raw, max_bad_rate, fields_of(fields))
    if split is not None:
        check_output(split, [path for path in (source, target) if path is not None])
    from data_prep.tokenizers.tokenizer import MODEL_NAME, prepare

    prepare((tokenizer or (hf_dir if hf_dir.is_dir() else hf_dir.parent)) / MODEL_NAME)
    from pipeline.align.aligner import Aligner

    aligner = Aligner.load(
        hf_dir,
        layer,
        tokenizer_dir=tokenizer,
        dtype=dtype,
        device=device,
        method=method,
        encoding=encoding,
        settings=settings_of(cost),
        keep_space_pieces=keep_space_pieces,
        window=window,
    )
    print(f"note: {note(aligner.options, aligner.place)}", file=sys.stderr)
    try:
        _print_links(aligner, reader, writing, split)
    finally:
        print(closing_line(aligner, reader.bad, writing), file=sys.stderr)


def _print_links(aligner: Aligner, reader: PairReader, writing: Writing, split: Path | None) -> None:
    watch = None if reader.raw or reader.is_split else RawTextWatch()
    arriving = Arriving(reader) if reader.comes_by_and_by else reader
    problem = None
    with ExitStack() as ends:
        split_file = None
        if split is not None:
            inputs = [path for path in (reader.source, reader.target) if path is not None]
            split_file = ends.enter_context(output_file(split, inputs))
        pairs = Remembered(_watched(arriving, watch), writing.needs_words, split_file)
        progress = ends.enter_context(Counted("aligning", "pairs"))
        put(writing.head, end="")
        try:
            count = 0
            for together in aligner.stream_together(pairs, writing.needs_scores):
                for links in together:
                    count += 1
                    put(writing.text(count, links, pairs.take()), end="")
                data_stream().flush()  # more may have to be waited for
                progress.show(count, reader.bytes_read / reader.size if reader.size else None)
                watch = _tell(watch)
        except ValueError as error:  # what was split until then is kept, as are its links
            problem = error
    _tell(watch)
    if problem is not None:
        raise problem


def _watched(pairs: Arriving[WordPair] | PairReader, watch: RawTextWatch | None) -> Iterator[WordPair | None]:
    for pair in pairs:
        if pair is not None and watch is not None:
            watch.look(pair)
        yield pair


def _tell(watch: RawTextWatch | None) -> RawTextWatch | None:
    """Say once that the text looks untokenised; what is still to be watched."""
    if watch is None or watch.notice is None:
        return watch
    print(f"note: {watch.notice}", file=sys.stderr)
    return None
