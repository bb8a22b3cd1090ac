"""Options and arguments that several commands have, so that they read and mean the same in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CostOption = Annotated[str | None, typer.Option(help="of ot-filter; clip (default): as released; exp: as published")]
TokenizerDir = Annotated[Path | None, typer.Option(help="TOKENIZER_DIR, where HF_DIR holds no SentencePiece model")]
ModelDir = Annotated[Path, typer.Argument(help="Hugging Face folder, run folder or checkpoint")]
MethodOption = Annotated[
    str,
    typer.Option(
        help="ot-filter: as in pretraining; ot: the released aligner; SimAlign's argmax: mutual largest cosine, "
        "itermax: argmax and once more beside its links, match: as many links as the shorter side allows"
    ),
]
EncodingOption = Annotated[
    str, typer.Option(help="joint: a pair in one sequence, as in pretraining; separate: each side")
]
LayerOption = Annotated[
    int | None, typer.Option(help="layer whose hidden states are aligned; default: two below the top")
]
DeviceOption = Annotated[
    str, typer.Option(help="auto: cuda where there is a GPU, else cpu; or cpu, cuda, cuda:1 and so on")
]
