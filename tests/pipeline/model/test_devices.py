"""Where a model runs and in which numbers, where the user leaves it open."""

import pytest
import torch

from pipeline.model.devices import Place, choose_place, dtype_of


def test_on_the_cpu_it_is_fp32_and_other_numbers_are_as_given() -> None:
    assert choose_place("cpu", "auto") == Place(torch.device("cpu"), torch.float32)
    assert str(choose_place("cpu", "bf16")) == "on the CPU in bf16"


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_on_a_gpu_it_is_what_the_gpu_calculates_in(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert dtype_of("auto", torch.device("cuda:0")) is dtype
    assert dtype_of("fp32", torch.device("cuda:0")) is torch.float32


def test_other_names_are_told() -> None:
    with pytest.raises(ValueError, match="--dtype int8: choose auto, fp32, bf16, fp16"):
        choose_place("cpu", "int8")
