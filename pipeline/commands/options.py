"""Options and arguments that several commands have, so that they read and mean the same in each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.tokenizers.hub import place_of
from sinkhorn_align import AlignmentSettings

CostOption = Annotated[str | None, typer.Option(help="of ot-filter; clip (default): as released; exp: as published")]
TokenizerDir = Annotated[
    Path | None,
    typer.Option(
        help="folder with the model's tokenizer, where none lies beside it (a TOKENIZER_DIR or a Hugging Face folder)"
    ),
]
ModelDir = Annotated[
    Path,
    typer.Argument(
        parser=place_of,
        help="Hugging Face folder, run folder, checkpoint, fairseq's model.pt, or a model of the hub by its name: "
        "FacebookAI/xlm-roberta-base, with @REVISION for a branch, tag or commit",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        help="ot-filter: as in pretraining; ot: the released aligner; SimAlign's argmax: mutual largest cosine, "
        "itermax: argmax and once more beside its links, match: as many links as the shorter side allows; softmax: "
        "awesome-align's, above a threshold in both directions; default: what is recorded with the model, else argmax",
        show_default=False,
    ),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        help="joint: a pair in one sequence, as in pretraining; separate: each side; default: as recorded, else what fits the "
        "method (ot-filter, ot: joint; argmax: separate)",
        show_default=False,
    ),
]
LayerOption = Annotated[
    int | None,
    typer.Option(
        help="layer whose hidden states are aligned; default: as recorded, else 7/12 of the way up", show_default=False
    ),
]
PROTOCOL_HELP = (
    "a published way to retrieve, at its layer: xtreme (mean of layer 8 of 12, 14 of 24), infoxlm (mean of layer 7 of 12), "
    "cls (<s> of the last layer), projected (by the model's sentence projection)"
)
ProtocolOption = Annotated[str | None, typer.Option(help=PROTOCOL_HELP, show_default=False)]
ProtocolLayerOption = Annotated[
    int | None, typer.Option(min=0, help="layer instead of the protocol's own (0: embeddings)", show_default=False)
]
PredictionsOption = Annotated[
    Path | None, typer.Option(help="also write what was found as XTREME scores it, into this folder")
]
FromOneOption = Annotated[
    bool | None,
    typer.Option(
        "--from-one/--from-zero",
        help="gold links count words from 1, or from 0; default: as usual for their format, or as the sentences leave no doubt",
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="auto: cuda where there is a GPU, else cpu; or cpu, cuda, cuda:1 and so on")
]

DtypeOption = Annotated[
    str,
    typer.Option(
        help="auto: fp32 on the CPU, on a GPU bf16, or fp16 where it is older than that; or fp32, bf16, fp16. bf16 is faster "
        "on CPUs too that have it"
    ),
]


def settings_of(cost: str | None) -> AlignmentSettings | None:
    """What `CostOption` chooses; None: nothing was chosen. ValueError where there is no such cost."""
    name: Any = cost  # which the settings check
    return None if cost is None else AlignmentSettings(cost=name)
