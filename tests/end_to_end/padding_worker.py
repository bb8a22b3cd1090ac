"""Started as ranks: ZeRO-3 of an odd number of weights, in memory that was NaN before; prints what is not finite.

`python padding_worker.py SETTINGS`, SETTINGS a DeepSpeed JSON of stage 3.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import deepspeed
import torch

from pipeline.training import ranks
from pipeline.training.divergence import check_weights, clear_padding

ranks.start(1)
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True
settings = json.loads(Path(sys.argv[1]).read_text()) | {"train_micro_batch_size_per_gpu": 1}
settings = {name: value for name, value in settings.items() if value != "auto"}
settings["optimizer"] = {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}
model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 5))
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings)
padded = sum(int(torch.isnan(parameter.ds_tensor).sum()) for parameter in model.parameters())
clear_padding(engine)
for _ in range(2):
    engine.backward(engine(torch.ones(1, 3)).sum())
    engine.step()
check_weights(engine)
print(f"padded {padded}", flush=True)
ranks.run_main(lambda: None)
