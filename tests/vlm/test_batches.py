"""What training asks of a batch."""

from __future__ import annotations

import pytest
import torch

from vlm.batches import count, split_groups
from vlm.model import OneLookModel
from vlm.processor import OneLookProcessor, PackedTarget


@pytest.mark.parametrize("num", [2, 3, 5])
def test_pictures_in_more_groups_are_the_same_pictures(num: int, tiny_model: OneLookModel) -> None:
    generator = torch.Generator().manual_seed(0)
    stride = tiny_model.config.stride
    pixels = [
        torch.rand(3, 3, 2 * stride, 3 * stride, generator=generator),
        torch.rand(2, 3, 3 * stride, 2 * stride, generator=generator),
    ]
    places = [torch.tensor([0, 3, 4]), torch.tensor([1, 2])]
    groups = split_groups(pixels, places, num)
    assert [len(group) for group in groups["pixel_values"]] == {2: [3, 2], 3: [1, 2, 2], 5: [1] * 5}[num]
    with torch.no_grad():
        whole, split = tiny_model.encode_images(pixels, places), tiny_model.encode_images(**groups)
    assert torch.equal(split.mask_BI, whole.mask_BI)
    torch.testing.assert_close(split.hidden_BID, whole.hidden_BID)
    for ours, theirs in zip(split.joint, whole.joint, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_a_batch_holds(tiny_processor: OneLookProcessor) -> None:
    """Two pictures of 2 x 3 tokens and one of 4 x 4; five prompts; rows of 5, 4 and 1 target tokens."""
    stride = tiny_processor.config.stride
    pictures = [torch.zeros(3, rows * stride, columns * stride) for rows, columns in ((2, 3), (4, 4), (2, 3))]
    prompts = [[[5, 6], [7]], [[5], [6]], [[7, 8, 9]]]
    targets = [[PackedTarget(ids=(5,) * num) for num in row] for row in ((2, 3), (1, 3), (1,))]
    assert count(tiny_processor.collate(pictures, prompts, targets), stride) == {
        "images": 3,
        "prompts": 5,
        "target_tokens": 10,
        "target_positions": 15,
        "image_tokens": 28,
        "image_positions": 48,
    }
