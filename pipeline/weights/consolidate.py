"""The weights of a checkpoint, whatever ZeRO stage wrote them, under Hugging Face's names.

Reads what DeepSpeed wrote, and runs nothing that it holds; knows our names of parameters and nothing of what the weights are
for.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from data_prep.quiet import prints_hidden
from pipeline.checkpoints import weights_only
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.model.decoder import DECODER
from pipeline.model.generator import whole_tables
from pipeline.model.heads import MASKED_LM_HEAD
from pipeline.weights.hugging_face import hugging_face_state
from pipeline.weights.sentence_projection import HEAD as PROJECTION

ENCODER, HEADS = "encoder", "heads"
"""Of what training wraps: a module, and a dictionary of modules by name."""


def full_state(found: Path, info: CheckpointInfo) -> dict[str, Tensor]:
    """All parameters in fp32, whatever the ZeRO stage that wrote them.

    Raises:
        ValueError: a file holds something else than a checkpoint does; nothing of it was run.
    """
    with prints_hidden():  # DeepSpeed takes seconds to import, and logs meanwhile
        weights_only.check(found / name for name in info.files if name.endswith(".pt"))
        if info.zero_stage == 0:
            content = weights_only.read(found / "mp_rank_00_model_states.pt")
            module = content.get("module") if isinstance(content, dict) else None
        else:
            from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

            with weights_only.reading(found), weights_only.refusing_code():
                module = get_fp32_state_dict_from_zero_checkpoint(str(found.parent), found.name)
    if not isinstance(module, dict) or not all(isinstance(tensor, Tensor) for tensor in module.values()):
        raise ValueError(f"{found}: holds no weights of a model; give another checkpoint")
    return {name: tensor.float() for name, tensor in module.items()}


def modules_of(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The parameters by the module that they are of, as a checkpoint holds it: "encoder", "heads.masked_lm" and so on."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        module, _, own = name.partition(".")
        if module == HEADS:
            head, _, own = own.partition(".")
            module = f"{HEADS}.{head}"
        modules.setdefault(module, {})[own] = tensor
    return modules


def hugging_face_parts(state: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """State dict of `XLMRobertaForMaskedLM`, without its head where there is none; the sentence projection and the decoder, by
    its own names, where there are any; other modules are left out.

    Raises:
        ValueError: there is no encoder; names `source` and what it holds.
    """
    modules = modules_of(state)
    encoder, head = modules.get(ENCODER), modules.get(f"{HEADS}.{MASKED_LM_HEAD}")
    if encoder is None or "word.weight" not in encoder:
        raise ValueError(f"{source}: holds no encoder, but {', '.join(modules) or 'nothing'}; give another checkpoint")
    encoder = whole_tables(encoder)
    if head is not None:
        head = {**head, "weight": encoder["word.weight"]}
    projection = modules.get(f"{HEADS}.{PROJECTION}", {})
    beside = {f"{PROJECTION}.{name}": tensor for name, tensor in projection.items()}
    beside |= {f"{DECODER}.{name}": tensor for name, tensor in modules.get(f"{HEADS}.{DECODER}", {}).items()}
    return hugging_face_state(encoder, head) | beside
