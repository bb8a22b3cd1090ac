"""Words that a model has beyond those of the token files: sentinels of spans, tags of languages. Their ids follow the data's.

Knows no PyTorch: what a config would train is told without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.token_files.manifest import Manifest
from pipeline.settings.schema import Config


@dataclass(frozen=True)
class AddedWords:
    """known: the vocabulary of the token files, whose last id is `<mask>`; then come the sentinels, then the tags."""

    known: int
    sentinels: int = 0
    languages: tuple[str, ...] = ()  # that have a tag, in order

    @property
    def vocab_size(self) -> int:
        """With the added words."""
        return self.known + self.sentinels + len(self.languages)

    @property
    def first_tag(self) -> int:
        return self.known + self.sentinels

    def tag(self, language: str) -> int:
        """The id of a language's tag.

        Raises:
            ValueError: it has none; names those that have.
        """
        if language not in self.languages:
            raise ValueError(f"no tag of a language {language}; choose of {', '.join(self.languages) or 'none'}")
        return self.first_tag + self.languages.index(language)

    @property
    def names(self) -> list[str]:
        """As a tokenizer writes them, in the order of their ids."""
        return [f"<sentinel_{number}>" for number in range(self.sentinels)] + [f"<2{name}>" for name in self.languages]


def words_of(config: Config, manifest: Manifest) -> AddedWords:
    """The words of a run's model: with a decoder, its sentinels, and a tag for each language of the token files."""
    decoder = config.model.decoder
    if decoder is None:
        return AddedWords(manifest.vocab_size)
    languages = {side for shards in manifest.pairs.values() for side in shards[0].languages} | manifest.mono.keys()
    return AddedWords(manifest.vocab_size, decoder.sentinels, tuple(sorted(languages)))
