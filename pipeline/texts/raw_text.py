"""Whether text that is taken for tokenised looks as if nobody had split it into words.

Knows words; nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.texts.word_splitting import is_written_without_spaces

PAIRS_LOOKED_AT = 200
_ENDS = ",;:!?"
_LEAST_GLUED, _GLUED_SHARE = 2, 0.04
"""Of words that end in a punctuation mark: about a tenth in untokenised text, below a hundredth in tokenised."""
_LONG_RUN = 12
"""Characters of a script without spaces in one word: tokenised words of Chinese or Thai have two to four."""


class RawTextWatch:
    """Looks at the first pairs of a text that is taken as tokenised; `notice` is None or one line for the user."""

    def __init__(self) -> None:
        self._pairs = self._words = 0
        self._glued: list[str] = []
        self._unspaced: list[str] = []
        self._without_spaces = 0  # words of such scripts

    def look(self, sides: tuple[Sequence[str], Sequence[str]]) -> None:
        """Take a pair's words into account."""
        if self._pairs >= PAIRS_LOOKED_AT:
            return
        self._pairs += 1
        for words in sides:
            self._words += len(words)
            # A full stop within a side may be an abbreviation's.
            self._glued += [word for word in words if word[-1] in _ENDS and len(word) > 1 and word[-2].isalpha()]
            self._glued += [word for word in words[-1:] if word[-1] == "." and len(word) > 1 and word[-2].isalpha()]
            unspaced = [word for word in words if is_written_without_spaces(word[0])]
            self._without_spaces += len(unspaced)
            self._unspaced += [word for word in unspaced if len(word) >= _LONG_RUN]

    @property
    def notice(self) -> str | None:
        """What to tell the user, where the text looks untokenised."""
        if len(self._glued) >= max(_LEAST_GLUED, _GLUED_SHARE * self._words):
            example = f"{self._glued[0]!r} is taken as one word"
        elif len(self._unspaced) >= max(1, self._without_spaces / 4):
            example = f"{self._unspaced[0][:_LONG_RUN]!r}… is taken as one word"
        else:
            return None
        return f"the text does not look tokenised: {example}; give --raw to split words and punctuation apart"
