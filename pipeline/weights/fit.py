"""Whether the sizes of a model fit the data and the settings that it is to be trained with.

Knows no PyTorch as long as nothing is wrong: what a config would train is told without it.
"""

from __future__ import annotations

from pipeline.settings.schema import Config
from pipeline.settings.sizes import EncoderConfig, longest_sequence


def check_sizes(config: Config, sizes: EncoderConfig, vocab_size: int) -> None:
    """ValueError where the data has other words, or the config asks for more layers or positions, than the model has."""
    init, longest = config.model.init, longest_sequence(config)
    if config.model.keep_layers is not None and config.model.keep_layers > sizes.layers:
        raise ValueError(
            f"model.keep_layers = {config.model.keep_layers}: model.init = {init} has {sizes.layers} layers; choose 1 to that"
        )
    if config.model.positions == "gated_relative" and not sizes.gated_relative:
        raise ValueError(
            f"model.positions = gated_relative: model.init = {init} was trained without it; leave one of them out"
        )
    if sizes.vocab_size != vocab_size:
        # Only here: it needs PyTorch, and most models have the data's vocabulary.
        from pipeline.weights.pretrained import check_vocabulary

        assert init is not None, "a model from scratch has the data's vocabulary"
        check_vocabulary(init, sizes.vocab_size, config.data.path, vocab_size)
    if longest > sizes.longest:
        raise ValueError(
            f"model.init = {init}: {sizes.longest} positions, data.block_tokens and data.side_tokens "
            f"need {longest}; lower them"
        )
