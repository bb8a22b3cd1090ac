"""Tells whether a text is in the language that its corpus says, with py3langid and the model that it brings.

Knows texts and language codes only. Off unless asked for: it judges 3 MB of text a second and core, six times slower than
encoding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

JUDGED_CHARACTERS = 500
# Our code (its part before "_") → labels of the model that are as good. Standard languages of one dialect continuum are
# not told apart by any model that looks at letters.
EQUIVALENT = {
    "bs": ("bs", "hr", "sr"),
    "ff": ("fuv",),
    "fil": ("tl",),
    "gn": ("gug",),
    "hr": ("hr", "bs", "sr"),
    "id": ("id", "ms"),
    "iw": ("he",),
    "ms": ("ms", "id"),
    "nb": ("no", "nn"),
    "nn": ("nn", "no"),
    "no": ("no", "nn"),
    "ns": ("nso",),
    "sh": ("hr", "bs", "sr"),
    "sr": ("sr", "hr", "bs"),
    "zh": ("zh", "wuu", "yue"),
}
ROMANISED = "rom"


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def labels_of(language: str) -> tuple[str, ...]:
    """The model's labels that a text in a language of ours may get; none where the model does not know it."""
    base, *subtags = language.split("_")
    if ROMANISED in subtags:
        return ()
    known = set(_identifier().labels)
    return tuple(label for label in EQUIVALENT.get(base, (base,)) if label in known)


def check_known(languages: tuple[str, ...]) -> None:
    """Refuse languages that cannot be judged.

    Raises:
        ValueError: the model has no label for one of them.
    """
    for language in languages:
        if not labels_of(language):
            raise ValueError(f"--lang-id: py3langid's model does not know {language}; leave --lang-id out for it")


class LanguageFilter:
    """Judges texts of one language: `is_other` where the model names another with at least this probability."""

    def __init__(self, language: str, min_probability: float) -> None:
        self.labels = labels_of(language)
        self.min_probability = min_probability

    def is_other(self, text: str) -> bool:
        """Whether the text is in another language, judged by its first 500 characters; in doubt it is not."""
        label, probability = _identifier().classify(text[:JUDGED_CHARACTERS])
        return label not in self.labels and label != "zxx" and probability >= self.min_probability
