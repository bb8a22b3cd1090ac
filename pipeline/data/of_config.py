"""What a config says of the streams of its data: how long their samples are, and how they are blended and mixed.

NumPy alone, as `streams`.
"""

from __future__ import annotations

import numpy as np

from data_prep.token_files.manifest import Manifest
from pipeline.data.blend import Stage
from pipeline.data.directions import check_directions
from pipeline.settings.schema import Config


def limits_of(config: Config) -> dict[str, int]:
    """The longest block, and the longest side of a pair, in tokens, by stream."""
    sides = config.data.side_tokens
    return {"mono": config.data.block_tokens, "pairs": sides, "contrast": sides}


def mixing_of(config: Config) -> str:
    """How sentence contrast mixes pairs, "none" where there is none."""
    contrast = config.objectives.contrast
    return "none" if contrast is None else contrast.mixing


def blend_stages(config: Config, stream: str) -> list[Stage]:
    """The blends of a stream's languages, each with its first sample."""
    alpha, weights = config.data.alpha, config.data.weights
    blended = "mono" if stream == "mono" else "pairs"
    stages = [Stage(0, alpha, getattr(weights, blended) or None)]
    for later in config.data.schedule:
        alpha = alpha if later.alpha is None else later.alpha
        weights = weights if later.weights is None else later.weights
        stages.append(Stage(later.from_step * getattr(config.batch, stream), alpha, getattr(weights, blended) or None))
    return stages


def check_translation(config: Config, manifest: Manifest) -> None:
    """ValueError where the directions of translation and the pairs that are drawn do not fit each other."""
    term, names = config.objectives.mt, sorted(manifest.pairs)
    if term is None or not term.directions:
        return
    shares_GL = [stage.shares(names, [1] * len(names)) for stage in blend_stages(config, "pairs")]
    is_drawn_L = np.max(shares_GL, axis=0) > 0
    drawn = {
        name: manifest.pairs[name][0].languages for name, is_drawn in zip(names, is_drawn_L, strict=True) if is_drawn
    }
    check_directions(term.directions, drawn, manifest.data_dir)
