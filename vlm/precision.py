"""Which precision a device computes fast in."""

from __future__ import annotations

import torch

__all__ = ["best_precision", "cpu_has_bf16"]


def cpu_has_bf16() -> bool:
    """Whether this CPU's matrix products take bfloat16.

    Without AVX-512 (or ARM's counterpart) oneDNN leaves bfloat16 to a loop that is many times slower than float32:
    on an AVX2 machine 1.2 GFLOP/s against 87.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def best_precision(*, cpu: bool = False) -> str:
    """ "bf16" or "no", for the GPU where there is one and `cpu` is not set, for the CPU otherwise."""
    if torch.cuda.is_available() and not cpu:
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if cpu_has_bf16() else "no"
