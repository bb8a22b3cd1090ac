"""Predictions of sentence retrieval and mining in the layout that XTREME's `evaluate.py` scores.

`DIR/tatoeba/test-<language>.tsv` has for every English line the 0-based line of the other language that it finds;
`DIR/bucc2018/test-<language>.tsv` a pair of ids a line, with a tab between them. Knows names and lines; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from data_prep.files import write_text

TATOEBA, BUCC = "tatoeba", "bucc2018"
_TWO_LETTERS = {
    "afr": "af", "ara": "ar", "ben": "bn", "bul": "bg", "cmn": "zh", "deu": "de", "ell": "el", "eng": "en", "est": "et",
    "eus": "eu", "fin": "fi", "fra": "fr", "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "jav": "jv",
    "jpn": "ja", "kat": "ka", "kaz": "kk", "kor": "ko", "mal": "ml", "mar": "mr", "nld": "nl", "pes": "fa", "por": "pt",
    "rus": "ru", "spa": "es", "swh": "sw", "tam": "ta", "tel": "te", "tgl": "tl", "tha": "th", "tur": "tr", "urd": "ur",
    "vie": "vi",
}  # fmt: skip
"""Tatoeba's languages as its files name them, and as XTREME does."""


def prediction_file(folder: Path, task: str, language: str) -> Path:
    """Where the predictions of a language lie; three letters of Tatoeba's become XTREME's two."""
    return folder / task / f"test-{_TWO_LETTERS.get(language, language)}.tsv"


def prediction_files(folder: Path, task: str, languages: Sequence[str]) -> list[Path]:
    """Those of several languages; ValueError where two of them would be one."""
    files = [prediction_file(folder, task, language) for language in languages]
    for at, file in enumerate(files):
        if file in files[:at]:
            raise ValueError(
                f"--predictions: {file} would hold two pairs, {languages[files.index(file)]} and {languages[at]}; measure them "
                "one after the other, in folders of their own"
            )
    return files


def write_found(path: Path, found: Iterable[int]) -> None:
    """The line that each line finds, a number a line."""
    write_text(path, "".join(f"{index}\n" for index in found))


def write_id_pairs(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """The ids of the pairs that were mined, a pair a line."""
    write_text(path, "".join(f"{source}\t{target}\n" for source, target in pairs))
