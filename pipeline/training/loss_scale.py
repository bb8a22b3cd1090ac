"""fp16's dynamic loss scale as the loop sees it: its value, and the end of a run that cannot go on."""

from __future__ import annotations

from typing import Any


class LossScale:
    """The loss scale of an engine; 1 and never a problem in bf16 and fp32."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        scaler = getattr(engine.optimizer, "loss_scaler", None)
        self._scaler = scaler if getattr(scaler, "dynamic", False) else None
        self._skipped_at_floor = 0
        if self._scaler is not None:
            # `check` ends such a run instead: DeepSpeed would do it with a traceback.
            self._scaler.raise_error_at_min_scale = False
        self._last = self.value

    @property
    def value(self) -> float:
        """The factor of the loss in the next backward."""
        return float(self._scaler.cur_scale) if self._scaler is not None else 1.0

    def check(self) -> None:
        """After every step. ValueError where steps in a row, as many as DeepSpeed's hysteresis, overflowed at the floor.

        Every rank sees the same, because DeepSpeed reduces the overflow over the ranks.
        """
        if self._scaler is None:
            return
        floor = self._scaler.min_scale
        at_floor = self._engine.optimizer.overflow and self._last <= floor
        self._skipped_at_floor = self._skipped_at_floor + 1 if at_floor else 0
        self._last = self.value
        if self._skipped_at_floor >= self._scaler.delayed_shift:
            raise ValueError(
                f"gradients overflow fp16 at the smallest loss scale, {floor:g} ({self._engine.skipped_steps} steps were "
                "skipped so far): the run has diverged; continue from an earlier checkpoint with a lower optimizer.lr or "
                "more optimizer.warmup_steps, or train in bf16 (ds_configs/*_bf16.json)"
            )
