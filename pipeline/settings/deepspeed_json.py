"""DeepSpeed's JSON as a run uses it: read, checked for what training relies on, and for what a device or a config excludes.

Knows no PyTorch and no DeepSpeed, so that a mistake is told before either is loaded. DeepSpeed reads the same file in the
ranks; what it alone knows of, it judges there.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from data_prep.sections import LIMIT, Section, checked

OWNED_KEYS = {  # set from the config, so that one value cannot say two things
    "train_batch_size": "batch",
    "train_micro_batch_size_per_gpu": "batch",
    "gradient_accumulation_steps": "batch.micro_steps",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "optimizer",
    "scheduler": "optimizer.warmup_steps",
}
# Names of DeepSpeed's own, which ignores all others at the top without a word.
KNOWN = ("zero_optimization", "fp16", "bf16", "activation_checkpointing", "communication_data_type", "data_types")


def _whole(value: Any) -> Any:
    """JSON's 5e8 is a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=LIMIT)]


class _Open(Section):
    """DeepSpeed knows more keys than are looked at here."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class _Offload(_Open):
    device: Literal["none", "cpu", "nvme"] = "none"
    pin_memory: bool = True
    nvme_path: str | None = None


class _Zero(_Open):
    stage: Annotated[int, Field(ge=0, le=3)] = 0
    offload_optimizer: _Offload | None = None
    offload_param: _Offload | None = None
    reduce_bucket_size: Whole = 500_000_000
    allgather_bucket_size: Whole = 500_000_000
    sub_group_size: Whole = 1_000_000_000
    stage3_max_live_parameters: Whole = 1_000_000_000
    stage3_max_reuse_distance: Whole = 1_000_000_000
    stage3_prefetch_bucket_size: Whole = 50_000_000
    stage3_param_persistence_threshold: Whole = 100_000
    overlap_comm: bool | None = None
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    allgather_partitions: bool = True
    round_robin_gradients: bool = False


class _Half(_Open):
    enabled: bool = False


class _Fp16(_Half):
    loss_scale: Annotated[float, Field(ge=0, strict=False)] = 0.0
    initial_scale_power: Whole = 16
    loss_scale_window: Whole = 1000
    hysteresis: Whole = 2
    min_loss_scale: Whole = 1


class _Settings(_Open):
    zero_optimization: _Zero = _Zero()
    fp16: _Fp16 = _Fp16()
    bf16: _Half = _Half()


def load_deepspeed_json(path: Path) -> dict[str, Any]:
    """Read a DeepSpeed JSON.

    Raises:
        ValueError: it cannot be read, is no JSON object, holds a key twice, a value of a wrong type or outside its range, a
            key that belongs to the run's config, or one that looks like a known one misspelt; one line with file and field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise ValueError(f"{path}: cannot read the DeepSpeed config ({error.strerror}); see ds_configs/") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: not valid JSON: nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a DeepSpeed config is a JSON object; see ds_configs/")
    for key, owner in OWNED_KEYS.items():
        if key in content:
            raise ValueError(f"{path}: {key} is set here and by {owner} of the run's config; remove it from the JSON")
    if "bfloat16" in content:
        raise ValueError(f"{path}: bfloat16 is an old name; write bf16")
    _check_names(path, "", content, KNOWN)
    settings = checked(_Settings, content, str(path))
    for name in ("zero_optimization", "fp16", "bf16"):
        _check_names(path, f"{name}.", content.get(name, {}), list(type(getattr(settings, name)).model_fields))
    if settings.fp16.enabled and settings.bf16.enabled:
        raise ValueError(f"{path}: fp16.enabled and bf16.enabled are both true; switch one off")
    return content


def check_fits(path: Path, settings: dict[str, Any], device: str, adam: str) -> None:
    """ValueError where these settings do not train on a device, "cpu" or another, or with the Adam that was chosen."""
    zero = settings.get("zero_optimization", {})
    if settings.get("fp16", {}).get("enabled"):
        if device == "cpu":
            raise ValueError(f"{path}: fp16 needs a GPU, this machine trains on the CPU; use a bf16 or fp32 config")
        if zero.get("stage", 0) == 0:
            # At stage 0 DeepSpeed unscales gradients of a loss that it never scaled.
            raise ValueError(f"{path}: fp16 needs ZeRO stage 1 or higher; use ds_configs/zero1_fp16.json")
    wide = settings.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    if wide and precision_of(settings) == "bf16" and zero.get("stage", 0) < 2 and not offloads(settings):
        # Stage 0 knows no such sums; at stage 1 BF16_Optimizer's checkpoints are none that DeepSpeed's own converter reads.
        raise ValueError(
            f"{path}: data_types.grad_accum_dtype = fp32 needs ZeRO stage 2 or 3 in bf16: what stage 1 saves with it cannot "
            "be exported; use ds_configs/zero2_bf16.json, or remove it"
        )
    if device == "cpu" and offloads(settings):
        raise ValueError(f"{path}: offload needs a GPU, this machine trains on the CPU; use one without it")
    if device == "cpu" and adam == "deepspeed":
        raise ValueError("optimizer.adam = deepspeed: it needs a GPU, this machine trains on the CPU; take torch")


def offloads(settings: dict[str, Any]) -> bool:
    """Whether weights or the optimizer's states lie outside of the GPU; DeepSpeed's Adam for the host then updates them."""
    zero = settings.get("zero_optimization", {})
    return any(
        (zero.get(what) or {}).get("device", "none") != "none" for what in ("offload_optimizer", "offload_param")
    )


@contextmanager
def refusals_told(path: Path) -> Iterator[None]:
    """What DeepSpeed itself refuses of its JSON, while it reads it, as a ValueError of one line."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: DeepSpeed refuses {field} = {first['input']!r}: {first['msg']}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, _ in pairs if [name for name, _ in pairs].count(key) > 1)
        raise ValueError(f"the key {twice} stands twice; keep one")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _check_names(path: Path, prefix: str, content: dict[str, Any], known: list[str] | tuple[str, ...]) -> None:
    for key in content.keys() - set(known):
        if near := difflib.get_close_matches(key, known, 1, 0.85):
            raise ValueError(f"{path}: unknown key {prefix}{key}; did you mean {prefix}{near[0]}?")


def sent_bytes(settings: dict[str, Any]) -> int:
    """Of a gradient's value, as ranks send it to each other."""
    sent = settings.get("communication_data_type") or precision_of(settings)
    return 4 if sent == "fp32" else 2


def precision_of(settings: dict[str, Any]) -> str:
    """The precision of a DeepSpeed config: fp16, bf16 or fp32."""
    return next((name for name in ("fp16", "bf16") if settings.get(name, {}).get("enabled")), "fp32")
