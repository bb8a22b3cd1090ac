"""What is to be adapted to what: checked before any work, and kept in the folder so that the same command goes on.

Knows words for users and files; nothing of models.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.files import remove_abandoned, write_text
from pipeline.texts.lines import COMPRESSED

NAME = "adapt.json"
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8})?")


@dataclass(frozen=True)
class Request:
    """What the result depends on."""

    model: str
    texts: tuple[str, ...]
    """Two files line by line, one file of pairs, or a mix of corpora."""
    pair: str | None
    """The languages of source and target; None: of a mix, which names its own."""
    steps: int
    seed: int
    links: str | None = None
    """A file of word links of the two texts, which then are the labels; None: the model labels, unless a mix has links."""

    @staticmethod
    def of(
        model: Path,
        texts: list[Path],
        pair: str | None,
        mix: Path | None,
        steps: int,
        seed: int,
        links: Path | None = None,
    ) -> Request:
        """ValueError where texts and options do not go together."""
        if links is not None and (mix is not None or len(texts) != 2):
            raise ValueError(f"--links {links}: goes with SOURCE and TARGET; a mix names link_files itself")
        if mix is not None:
            if texts or pair is not None:
                raise ValueError("--mix: names texts and languages itself; leave SOURCE, TARGET and --pair out")
            return Request(str(model), (_absolute(mix),), None, steps, seed)
        if not 1 <= len(texts) <= 2:
            raise ValueError("give SOURCE and TARGET, one file of pairs (.tsv, .tmx, .jsonl …), or --mix CORPORA.yaml")
        given = None if links is None else _absolute(links)
        return Request(str(model), tuple(map(_absolute, texts)), pair or pair_of(texts), steps, seed, given)

    def keep(self, out: Path) -> None:
        """Write it into the folder, or see that it is what the folder was begun with; ValueError where it is not."""
        path = out / NAME
        remove_abandoned(path)
        if not path.exists():
            if out.exists() and any(out.iterdir()):
                raise ValueError(f"{out}: is not empty, and was not begun by adapt; give another --out")
            write_text(path, json.dumps(asdict(self), indent=1) + "\n")
            return
        was = _read(path)
        now = json.loads(json.dumps(asdict(self)))
        for key in (key for key, value in now.items() if was.get(key) != value):
            raise ValueError(
                f"{out}: was begun with {key} {_shown(was.get(key))}, not {_shown(now[key])}; give another --out, or "
                f"delete {out} to start over"
            )


def pair_of(texts: list[Path]) -> str:
    """The languages that the names of two files end in, `text.en text.de.gz`: en-de. ValueError where they do not tell."""
    names = [Path(text.stem) if text.suffix.lower() in COMPRESSED else text for text in texts]
    found = [name.suffix.removeprefix(".") for name in names]
    if len(found) != 2 or not all(map(_LANGUAGE.fullmatch, found)) or found[0] == found[1]:
        given = " and ".join(text.name for text in texts)
        raise ValueError(f"{given}: the names do not tell two languages; give --pair, as --pair en-de")
    return "-".join(code.replace("-", "_") for code in found)


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); give another --out") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no object; give another --out")
    return content


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
