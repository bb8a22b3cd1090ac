"""Models of the hub wherever a model is named: fetched once, and from then on a Hugging Face folder like any other.

Knows which files a model consists of; `data_prep.tokenizers.hub` knows names, the network and the cache.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from data_prep.tokenizers.hub import HubName, fetch, hub_name
from data_prep.tokenizers.hub_tokenizer import TOKENIZER_FILES

WANTED = (
    "give a Hugging Face model folder, a run folder, a checkpoint or fairseq's model.pt, or a model of the hub by its name, "
    "such as FacebookAI/xlm-roberta-base"
)
_CONFIG = "config.json"
_DESCRIPTION = (_CONFIG, *TOKENIZER_FILES)
_SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
SENTENCE_PROJECTION = "sentence_projection.safetensors"
"""What lies beside the weights of some; see `sentence_projection`. Here, where it is named without PyTorch."""
_PICKLED = ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json")


@contextmanager
def named() -> Iterator[None]:
    """Errors that name a file or a model, with the setting that it came from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"model.init: {error}") from None


def local_folder(place: Path, weights: bool = True) -> Path:
    """The folder that holds a model which is named by its place: the place itself, or a hub's model's files.

    Args:
        weights: without, only what describes the model and its tokenizer are fetched.

    Raises:
        ValueError: it is named as a model of the hub and is none, or cannot be fetched.
    """
    name = hub_name(place)
    return place if name is None else _fetch(name, weights)


def _fetch(name: HubName, weights: bool) -> Path:
    if weights:
        return fetch(name, _model_files, (*_DESCRIPTION, *_SAFETENSORS, SENTENCE_PROJECTION), WANTED)
    return fetch(name, _description_files, _DESCRIPTION, WANTED)


def pinned(place: Path) -> Path:
    """The same place; of a model of the hub, with the commit that it has now, which is fetched: ORG/NAME@COMMIT."""
    name = hub_name(place)
    return place if name is None else Path(f"{name.repo}@{_fetch(name, weights=True).name}")


def _model_files(names: Collection[str]) -> list[str]:
    """Safetensors, and only where there are none the weights that PyTorch pickles."""
    weights = _matching(names, _SAFETENSORS) or _matching(names, _PICKLED)
    if not any(name.endswith((".safetensors", ".bin")) for name in weights):
        raise ValueError(
            f"has neither {_SAFETENSORS[0]} nor {_PICKLED[0]} (it has {_some(names)}); give a model with weights of PyTorch"
        )
    return [*_description_files(names), *weights, *_matching(names, (SENTENCE_PROJECTION,))]


def _description_files(names: Collection[str]) -> list[str]:
    if _CONFIG not in names:
        raise ValueError(f"has no {_CONFIG} (it has {_some(names)}); give a model of Transformers")
    return _matching(names, _DESCRIPTION)


def _matching(names: Collection[str], patterns: Collection[str]) -> list[str]:
    return [name for name in names if "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)]


def _some(names: Collection[str], most: int = 5) -> str:
    return ", ".join(sorted(names)[:most]) + (" …" if len(names) > most else "") or "nothing"
