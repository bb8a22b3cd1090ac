"""Word links between the two sides of translation pairs, from hidden states, by optimal transport.

The room turns hidden states into links and knows nothing of tokenizers, models or training.

Shape suffixes: `B` pairs, `T` tokens of the flat batch, `M`/`N` source and target tokens of a pair, `D` hidden width,
`R` filter rounds, `L` links.
"""

from sinkhorn_align.api import align
from sinkhorn_align.links import Links, PairStatus
from sinkhorn_align.settings import AlignmentSettings

__all__ = ["AlignmentSettings", "Links", "PairStatus", "align"]
