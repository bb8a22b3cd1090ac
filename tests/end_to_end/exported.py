"""How far an exported model is from the module that was trained, for tests and for recorded runs.

`python -m tests.end_to_end.exported RUN HF_DIR TEXT` prints the largest difference per layer, embeddings first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from pipeline.checkpoints import checkpoint, weights_only
from pipeline.data.packing import pack
from pipeline.model.encoder import Encoder, EncoderConfig


def trained_encoder(run: Path) -> Encoder:
    """The encoder with the weights of rank 0's module as DeepSpeed saved it: ZeRO 0-2 in fp32."""
    found, _ = checkpoint.find(str(run), run)
    assert found is not None
    (path,) = found.glob("mp_rank_00_model_states.pt")
    module = weights_only.read(path)["module"]
    encoder = Encoder(EncoderConfig(**checkpoint.read_info(found).encoder))
    weights = {name.removeprefix("encoder."): t for name, t in module.items() if name.startswith("encoder.")}
    encoder.load_state_dict(weights)
    return encoder.eval()


@torch.no_grad()
def differences(run: Path, folder: Path, lines: list[str]) -> list[float]:
    """Per layer the largest over all tokens, between the trained encoder and `AutoModel` with `AutoTokenizer`, padded."""
    tokens = AutoTokenizer.from_pretrained(folder)(lines, padding=True, return_tensors="pt")
    theirs = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()(**tokens, output_hidden_states=True)
    present = tokens["attention_mask"].bool()
    rows = [ids[mask].numpy() for ids, mask in zip(tokens["input_ids"], present, strict=True)]
    ours = trained_encoder(run).hidden_states(pack(rows))
    assert len(ours) == len(theirs.hidden_states)
    pairs = zip(ours, theirs.hidden_states, strict=True)
    return [float((mine - other[present]).abs().max()) for mine, other in pairs]


if __name__ == "__main__":
    run, folder, text = map(Path, sys.argv[1:])
    lines = text.read_text(encoding="utf-8").splitlines()[:100]
    print(" ".join(f"{difference:.1e}" for difference in differences(run, folder, lines)))
