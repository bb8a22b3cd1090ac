"""What a folder says of a model that writes text: which languages it writes, and where it is told which.

In config.json of an `EncoderDecoderModel` it is `text_to_text` in the section that Transformers carries along and does not
read. Knows that section; nothing of tensors and tokenizers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pipeline.weights.model_record import SECTION, TEXT_TO_TEXT_KEY

Place = Literal["source", "target"]


@dataclass(frozen=True)
class TextToTextRecord:
    """tag: where the word `<2xx>` of the language to write stands, as the source's first word or as what the decoder begins
    with; languages: that have such a word, in the order of their ids; sentinels: words for spans, whose ids come before."""

    tag: Place = "target"
    languages: tuple[str, ...] = ()
    sentinels: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"languages": list(self.languages)}


def text_to_text_of_config(content: dict[str, Any], path: Path) -> TextToTextRecord | None:
    """The record in a config.json; None: it has none.

    Raises:
        ValueError: it is damaged; names `path` and the key.
    """
    section = content.get(SECTION)
    found = section.get(TEXT_TO_TEXT_KEY) if isinstance(section, dict) else None
    if found is None:
        return None
    where = f"{path}: {SECTION}.{TEXT_TO_TEXT_KEY}"
    if not isinstance(found, dict):
        raise ValueError(f"{where} is {found!r}, not an object; export the model again")
    tag, languages, sentinels = found.get("tag"), found.get("languages"), found.get("sentinels")
    if tag not in get_args(Place):
        raise ValueError(f"{where}.tag is {tag!r}, not one of {', '.join(get_args(Place))}; export the model again")
    if not (isinstance(languages, list) and all(isinstance(name, str) for name in languages)):
        raise ValueError(f"{where}.languages is {languages!r}, not a list of languages; export the model again")
    if not isinstance(sentinels, int) or sentinels < 0:
        raise ValueError(f"{where}.sentinels is {sentinels!r}, not a number of words; export the model again")
    return TextToTextRecord(cast(Place, tag), tuple(languages), sentinels)
