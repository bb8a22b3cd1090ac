"""DeepSpeed's Muon, of which a run needs only that its optimizer is not one, imported without PyTorch's compiler."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from deepspeed.runtime import compiler


def import_uncompiled() -> None:
    """Import Muon before `deepspeed.initialize` does, which asks every ZeRO optimizer whether it is one.

    Its functions are decorated to be compiled, and the decorator imports Inductor: about a second of each rank's processor at
    every start, and 45 MB. Runs here train with AdamW (`settings.deepspeed_json.OWNED_KEYS`), so nobody calls them.
    """
    decorator = compiler.compile
    compiler.compile = lambda: _as_it_is
    try:
        import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = decorator


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
