from __future__ import annotations

import pytest
import torch

from vlm import precision
from vlm.precision import best_precision, cpu_has_bf16


def test_a_cpu_with_bf16_has_wide_registers() -> None:
    """oneDNN takes bfloat16 from AVX-512 on, and on ARM."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in ("DEFAULT", "AVX2"):
        assert not cpu_has_bf16() or torch.cpu.get_capabilities()["architecture"] != "x86_64"
    else:
        assert cpu_has_bf16()


@pytest.mark.parametrize(("has", "wanted"), [(True, "bf16"), (False, "no")])
def test_auto_follows_the_cpu(monkeypatch: pytest.MonkeyPatch, has: bool, wanted: str) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has)
    assert best_precision(cpu=True) == wanted
