"""Reading what DeepSpeed has pickled without running any code that a file may hold.

Knows the few types that DeepSpeed stores beside tensors; everything else in a file is a reason to refuse it. PyTorch's own
switch makes DeepSpeed's readers keep to that too.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

STORED_TYPES = frozenset(
    {
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    }
)
"""What DeepSpeed's ZeRO stages 0 to 3 store in fp32, bf16 and fp16: plain data all of them."""
_FORCE, _NEVER = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def check(paths: Iterable[Path]) -> None:
    """See, without loading them, that files hold nothing but tensors and stored types.

    Raises:
        ValueError: names the file and the type that it holds, or says that it cannot be read.
    """
    for path in paths:
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("not what torch.save writes")
            with _only(()):
                foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - STORED_TYPES
        except (ValueError, OSError, RuntimeError, pickle.UnpicklingError, LookupError, EOFError) as error:
            raise ValueError(f"{path}: cannot be read ({_reason(error)}); give another checkpoint") from None
        if foreign:
            raise ValueError(_refusal(path, min(foreign)))


def read(path: Path) -> Any:
    """What a file without stored types holds, on the CPU; ValueError as `reading`."""
    with reading(path):
        return load(path)


def load(path: Path, *types: type) -> Any:
    """What a file of tensors, plain values and these types holds, on the CPU; PyTorch's own errors."""
    with _only(types):
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def refusing_code() -> Iterator[None]:
    """Within the block all that PyTorch loads, for whoever, is loaded by its unpickler for weights alone."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _NEVER)}
    os.environ[_FORCE] = "1"
    try:
        with _only([_type(name) for name in STORED_TYPES]):
            yield
    finally:
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextmanager
def reading(source: Path) -> Iterator[None]:
    """One line for whatever a block stumbles over that only reads `source`.

    Raises:
        ValueError: it holds something else than tensors, which was not run, or it cannot be read.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(_refusal(source, named[1] if named else "something else than tensors")) from None
    except (ValueError, OSError, RuntimeError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(f"{source}: cannot be read ({_reason(error)}); give another checkpoint") from None


@contextmanager
def _only(types: Iterable[type]) -> Iterator[None]:
    """Within the block PyTorch's unpickler takes these types alone, whatever other libraries have told it to take."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(list(types)):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


def _type(name: str) -> type:
    module, _, own = name.rpartition(".")
    found: type = getattr(importlib.import_module(module), own)
    return found


def _refusal(source: Path, what: str) -> str:
    return (
        f"{source}: holds {what}, which no training stores, and loading it could run code; "
        "give another checkpoint, or its export"
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
