"""Options that several commands of `python -m data_prep` share.

Knows words for users only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from data_prep.plan.formats import DEFAULT_SPLIT

TokenizerOption = Annotated[Path, typer.Option("--tokenizer", help="TOKENIZER_DIR of `tokenizer train|import`.")]
DataDirOption = Annotated[Path, typer.Option("--out", help="DATA_DIR; several runs may add to one.")]
WorkersOption = Annotated[int, typer.Option(help="Processes that encode; the files are the same for any number.")]
ShardBytesOption = Annotated[int, typer.Option(help="Decompressed text per shard, in bytes.")]
BadRateOption = Annotated[
    float, typer.Option(help="Share of lines (invalid UTF-8, NUL, wrong TSV) to set aside in quarantine/; 0: fail.")
]
FormatOption = Annotated[
    str, typer.Option(help="text, tsv, csv, zip, tmx, jsonl, parquet or dataset; auto: by the file's name and content.")
]
FieldsOption = Annotated[
    str,
    typer.Option(
        help="Comma-separated field names; dots lead into records. TMX, zip: languages as spelled there; zip: members."
    ),
]
ConfigOption = Annotated[str, typer.Option(help="Configuration of a dataset.")]
SplitOption = Annotated[str, typer.Option(help="Split of a dataset.", show_default=DEFAULT_SPLIT)]
RevisionOption = Annotated[str, typer.Option(help="Branch, tag or commit of a dataset.")]
LinksOption = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="Word links of SOURCE and TARGET, a line a pair, as 0-0 1-2 (Pharaoh: eflomal, fast_align), of words that white "
        "space separates. Kept beside the tokens, for training with labels: links.",
    ),
]
LangIdOption = Annotated[
    float | None,
    typer.Option(help="Drop text that is another language with at least this probability (0.8 is usual; slow)."),
]
ReplaceOption = Annotated[
    bool,
    typer.Option("--replace", help="Put a corrected or renamed source in the place of the one that the folder holds."),
]
AddOption = Annotated[
    bool, typer.Option("--add", help="Keep sources of one name with other content, or of one text, beside each other.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show bytes and shards of each source; write nothing.")]
