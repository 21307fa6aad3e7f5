"""transformers by itself: processor and `generate`, one prompt at a time."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image


@torch.no_grad()
def generate_plainly(
    reference: tuple[Any, Any], image: Image.Image, text: str, *, max_new_tokens: int | None, num_beams: int
) -> tuple[list[int], list[float]]:
    """Tokens behind the start token, and their log-probabilities.

    Args:
        reference: transformers' own model and processor.
    """
    model, processor = reference
    said = model.generate(
        **processor(text=text, images=image, return_tensors="pt"),
        num_beams=num_beams,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        output_scores=True,
    )
    beams = said.beam_indices if num_beams > 1 else None
    scores = model.compute_transition_scores(said.sequences, said.scores, beams, normalize_logits=True)
    return said.sequences[0, 1:].tolist(), scores[0].tolist()
