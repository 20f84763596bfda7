"""Which precision a machine trains in."""

import pytest
import torch

from tsic.device import resolve_precision


@pytest.mark.parametrize(("computes_bf16", "found"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_that_only_emulates_bf16_trains_in_fp16(
    computes_bf16: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or computes_bf16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", "auto") == found
    assert resolve_precision("32-true", "auto") == "32-true"
