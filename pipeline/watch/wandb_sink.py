"""Weights & Biases as one more place for a run's figures; imported only where a config asks for it.

Knows W&B's calls and where a run keeps its W&B id; is given plain numbers.
"""

from __future__ import annotations

import importlib
import importlib.util
import uuid
from typing import Any

from data_prep.files import write_text
from pipeline.settings.schema import Config

ID_FILE = "wandb_id"


def check_wandb(config: Config) -> None:
    """ValueError where the config asks for W&B and the package is not there; before anything expensive starts."""
    if config.run.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "run.wandb is set and the package wandb is not installed: `pip install wandb`, or run.wandb=null"
        )


class WandbSink:
    """One run of W&B, which a resumed run continues. What the config leaves open, WANDB_MODE, WANDB_NAME and so on decide."""

    def __init__(self, config: Config) -> None:
        settings = config.run.wandb
        assert settings is not None, "W&B is asked for"
        wandb = importlib.import_module("wandb")
        id_file = config.run.out / ID_FILE
        if not id_file.exists():
            write_text(id_file, uuid.uuid4().hex)
        try:
            self._run = wandb.init(
                **{name: value for name, value in settings.model_dump().items() if value not in (None, [])},
                id=id_file.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(config.run.out),
                config=config.model_dump(mode="json"),
            )
            # A step of its own, because a resumed run may do some again and W&B's must only rise.
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"run.wandb: W&B did not start ({reason}); log in, or set run.wandb.mode=offline or WANDB_MODE=offline"
            ) from None

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Record the numbers of one line of metrics."""
        self._run.log({"step": step, **{f"{kind}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        self._run.finish()
