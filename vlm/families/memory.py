"""What predictions of a process's memory have in common, whatever the family.

It is the process's peak on a CPU, in float32: Python with its libraries, the weights, and the most of what the file
holds while weights of another type are converted, and what the vision tower and the decoding of two prompts (detection
and caption) hold at a time.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["FLOAT", "NUM_PROMPTS", "converting"]

FLOAT = 4
NUM_PROMPTS = 2


def converting(folder: Path, weights: int) -> int:
    """Bytes that the checkpoint's files take beside `weights` bytes in float32 while they are read."""
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return stored if stored < 0.9 * weights else 0  # of the same type they stay where the file is mapped
