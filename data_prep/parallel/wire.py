"""What ranks of a job send each other, as JSON: shares of a plan, results, and which of a few functions is to work on them.

A pickle would be code of whoever sent it. Knows the kinds of values; whoever has work for ranks says so with `work_of_ranks`.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_prep.tokenizers.tokenizer import Tokenizer, load_same

Work = TypeVar("Work", bound=Callable[..., Any])

PACKAGE = "data_prep."
_WORK: dict[str, Callable[..., Any]] = {}


def work_of_ranks(function: Work) -> Work:
    """Mark a function as one of those that another rank may be told to call; it is known once its module is imported."""
    _WORK[_name(function)] = function
    return function


def encode(value: Any) -> bytes:
    """A value made of JSON's kinds, tuples, sets, counters, paths, this package's dataclasses, a tokenizer, or partial work."""
    return json.dumps(_plain(value)).encode()


def decode(content: bytes) -> Any:
    """The value of `encode`. ValueError for what it cannot have written."""
    return _value(json.loads(content))


def _plain(value: Any) -> Any:
    """Lists stay lists; every other thing with parts becomes {kind: parts}."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, (tuple, set)):
        return {type(value).__name__: [_plain(part) for part in value]}
    if isinstance(value, dict):
        kind = "counter" if isinstance(value, Counter) else "dict"
        return {kind: [[_plain(key), _plain(part)] for key, part in value.items()]}
    if isinstance(value, Tokenizer):
        return {"tokenizer": [_plain(part) for part in value.kept()]}
    if isinstance(value, functools.partial):
        assert _name(value.func) in _WORK and not value.keywords, value
        return {"work": [_name(value.func), *map(_plain, value.args)]}
    assert is_dataclass(value) and type(value).__module__.startswith(PACKAGE), (
        f"{type(value)} does not travel between ranks"
    )
    return {"record": [_name(type(value)), {part.name: _plain(getattr(value, part.name)) for part in fields(value)}]}


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "record":
        name, parts = content
        return _record(name)(**{part: _value(value) for part, value in parts.items()})
    if kind == "work":
        return functools.partial(_work(content[0]), *map(_value, content[1:]))
    if kind == "path":
        return Path(content)
    kinds: dict[str, Callable[[Any], Any]] = {
        "tuple": tuple,
        "set": set,
        "dict": dict,
        "counter": lambda pairs: Counter(dict(pairs)),
        "tokenizer": lambda kept: load_same(*kept),
    }
    if kind not in kinds:
        raise ValueError(f"another rank sent {kind!r}, which is nothing that ranks send")
    return kinds[kind](_value(content))


def _name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def _record(name: str) -> type:
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute, None) if module.startswith(PACKAGE) else None
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(f"another rank sent {name}, which is no record of this package")
    return found


def _work(name: str) -> Callable[..., Any]:
    if name not in _WORK:
        raise ValueError(f"another rank sent {name}, which is no work of this package")
    return _WORK[name]
