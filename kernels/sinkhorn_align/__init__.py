"""Word links between the two sides of translation pairs, from hidden states, by optimal transport.

Turns hidden states into links and knows nothing of tokenizers, models or training. `align` makes the labels of pretraining;
`released` and `simalign` hold the methods of other word aligners, which are asked for by module. PyTorch is imported when
something that needs it is first asked for: settings are read by commands that must answer at once.

Shape suffixes: `B` pairs, `T` tokens of the flat batch, `M`/`N` source and target tokens of a pair, `D` hidden width,
`R` filter rounds, `L` links.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sinkhorn_align.settings import AlignmentSettings

if TYPE_CHECKING:
    from sinkhorn_align.api import align, warm_up
    from sinkhorn_align.links import Links, PairStatus
    from sinkhorn_align.spans import Spans

__all__ = ["AlignmentSettings", "Links", "PairStatus", "Spans", "align", "warm_up"]

_MODULES = {"align": "api", "warm_up": "api", "Links": "links", "PairStatus": "links", "Spans": "spans"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
