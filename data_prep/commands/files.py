"""The commands of `python -m data_prep` on files that are there: inspect, verify, remove, merge, rechunk, export.

As in `binarize`, words become calls and results become words.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.data_dir.fairseq_export import POSITIONS, export_fairseq
from data_prep.data_dir.inspection import draw, drop_table, samples, summary, summary_table
from data_prep.data_dir.merge import merge
from data_prep.data_dir.remove import remove
from data_prep.data_dir.verify import find_problems
from data_prep.standard_output import DataCommand, print_table, put, shares_a_terminal
from data_prep.text.rechunk import DEFAULT_FRAME_BYTES, rechunk_files
from data_prep.token_files.block_table import DEFAULT_BLOCK_TOKENS
from data_prep.token_files.manifest import Manifest

app = typer.Typer()

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DataDirArgument = Annotated[Path, typer.Argument(metavar="DATA_DIR", help="Folder written by mono and parallel.")]


@app.command(cls=DataCommand)
def inspect(
    data_dir: DataDirArgument,
    as_json: JsonOption = False,
    show_samples: Annotated[
        int, typer.Option("--samples", min=0, help="Show so many texts that were kept, and that each filter dropped.")
    ] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Draw tokens per language and sentence lengths into a PNG.")
    ] = None,
) -> None:
    """Show what a data folder holds.

    Per language and language pair, and what each filter dropped of each source.

    Example: python -m data_prep inspect data --samples 3 --picture data.png
    """
    manifest = Manifest.load(data_dir)
    rows = summary(manifest)
    texts = samples(manifest, show_samples) if show_samples else []
    if picture:
        draw(manifest, picture)
    if as_json:
        content = {"tokenizer_sha256": manifest.tokenizer_sha256, "vocab_size": manifest.vocab_size, "rows": rows}
        content |= {"sources": manifest.sources, "samples": texts} if show_samples else {"sources": manifest.sources}
        put(json.dumps({**content, "digest": manifest.digest()}, indent=2, ensure_ascii=False))
        return
    print_table(summary_table(manifest, rows))
    if any(source["dropped"] for source in manifest.sources):
        print_table(drop_table(manifest))
    for sample in texts:
        put(f"{sample['data']} {sample['why']}: {' ||| '.join(sample['text'])}")


@app.command(cls=DataCommand)
def verify(data_dir: DataDirArgument) -> None:
    """Read every byte of a data folder again.

    Hashes, boundaries, ids. One line per problem, exit code 1 on any.

    Example: python -m data_prep verify data
    """
    problems = 0
    for problem in find_problems(data_dir):
        print(f"error: {problem}", file=sys.stderr)
        problems += 1
    if problems:
        raise typer.Exit(1)
    put(f"{data_dir}: {len(Manifest.load(data_dir).shards)} shards, all as written")


@app.command("remove", cls=DataCommand)
def remove_source(
    data_dir: DataDirArgument,
    source: Annotated[str, typer.Argument(help="A file's name, or mono/de/NAME-…, as `inspect --json` lists it.")],
) -> None:
    """Take a source out of a data folder.

    Its shards go, its entry in the manifest, and what was set aside or dropped of it.

    Example: python -m data_prep remove data de.txt.xz
    """
    removed = remove(data_dir, source)
    put(f"{data_dir}: {removed.stem} removed, {removed.shards} shards")
    if removed.duplicates_elsewhere:
        note = "sources that dropped text as repeated have not got it back; run their commands again"
        print(f"note: {note}", file=sys.stderr)


@app.command("merge", cls=DataCommand)
def merge_folders(
    folders: Annotated[list[Path], typer.Argument(metavar="DATA_DIR...", help="Folders written by mono and parallel.")],
    out: Annotated[Path, typer.Option(help="DATA_DIR to write, or to add to.")],
    link: Annotated[bool, typer.Option("--link", help="Hard links instead of copies, on one file system.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Keep sources of one name with different content.")] = False,
) -> None:
    """Make one data folder out of several.

    They are of one tokenizer; a source that several hold is in it once.

    Example: python -m data_prep merge data-de data-en --out data --link
    """
    merged = merge(folders, out, link, add)
    put(
        f"{out}: {merged.shards} shards copied, {merged.present} already present; "
        f"sources found more than once: {merged.duplicates}"
    )


@app.command("rechunk", cls=DataCommand)
def rechunk_archives(
    files: Annotated[list[Path], typer.Argument(help="Text, plain or .xz, .gz, .bz2, .zst.")],
    out: Annotated[Path, typer.Option(help="Folder to write `NAME.zst` into.")],
    frame_bytes: Annotated[int, typer.Option(help="Text per frame, in bytes; reading begins at a frame.")] = (
        DEFAULT_FRAME_BYTES
    ),
    level: Annotated[int, typer.Option(help="zstd's compression level, 1 to 22.")] = 3,
    workers: Annotated[int, typer.Option(help="Threads that compress; the files are the same for any number.")] = 1,
) -> None:
    """Write archives so that reading can begin anywhere.

    As zstd frames with a table; nothing is then decoded twice.

    Example: python -m data_prep rechunk en.txt.xz --out framed --workers 2
    """
    written_files = rechunk_files(files, out, frame_bytes, level, workers)
    # On a terminal the bar is drawn to its end first: a line of data would run into it.
    for written, frames in list(written_files) if shares_a_terminal() else written_files:
        put(f"{written}: {frames:,} frames, {written.stat().st_size:,} bytes")


@app.command("export-fairseq", cls=DataCommand)
def export_for_fairseq(
    data_dir: DataDirArgument,
    out: Annotated[Path, typer.Option(help="Folder to write `mono` and `pair` into.")],
    only: Annotated[list[str] | None, typer.Option(help="A language or pair to take; may be repeated.")] = None,
    block_tokens: Annotated[int, typer.Option(help="Largest monolingual block, special tokens included.")] = (
        DEFAULT_BLOCK_TOKENS
    ),
    with_contrast: Annotated[
        bool,
        typer.Option("--xlco", help="Write `xlco` too: pairs side by side, for the released InfoXLM's --xlco_data."),
    ] = False,
) -> None:
    """Write a data folder for fairseq.

    As the released XLM-Align and InfoXLM code reads it: train.0.bin, train.0.idx and dict.txt.

    Example: python -m data_prep export-fairseq data --out fairseq-data
    """
    for done in export_fairseq(data_dir, out, only or (), block_tokens, with_contrast):
        put(f"{done.folder}: {done.items:,} items, {done.tokens:,} tokens")
        if done.too_long:
            room = f"{done.positions} positions" if done.positions == POSITIONS else f"{done.positions} for one of two"
            put(f"note: {done.too_long:,} items are longer than the released model's {room}")
