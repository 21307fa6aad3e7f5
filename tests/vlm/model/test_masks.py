"""Who may look at whom, by hand."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.model.masks import causal_mask, cross_mask, prompt_mask

T, F_ = True, False


def test_prompts_look_at_the_image_and_themselves() -> None:
    mask = prompt_mask(torch.tensor([[T, F_]]), torch.tensor([[1, 2, 2, -1]]))
    assert mask.shape == (1, 1, 4, 6)
    assert mask[0, 0].tolist() == [
        [T, F_, T, F_, F_, F_],
        [T, F_, F_, T, T, F_],
        [T, F_, F_, T, T, F_],
        [T, F_, F_, F_, F_, T],  # padding looks somewhere, so that its softmax is not empty
    ]


def test_targets_look_back_over_their_own() -> None:
    assert causal_mask(torch.tensor([[1, 1, 2]]))[0, 0].tolist() == [[T, F_, F_], [T, T, F_], [F_, F_, T]]


def test_targets_look_at_the_image_and_their_prompt() -> None:
    memory = torch.tensor([[0, 0, -1, 1, 2, -1]])
    mask = cross_mask(torch.tensor([[1, 2, -1]]), memory)
    assert mask[0, 0].tolist() == [
        [T, T, F_, T, F_, F_],
        [T, T, F_, F_, T, F_],
        [T, T, F_, F_, F_, F_],
    ]


def test_rows_have_masks_of_their_own() -> None:
    segments = torch.tensor([[1, 1, 2], [1, 2, -1]])
    images = torch.tensor([[T, T], [T, F_]])
    both = prompt_mask(images, segments)
    for row in range(2):
        assert torch.equal(both[row : row + 1], prompt_mask(images[row : row + 1], segments[row : row + 1]))
        assert torch.equal(causal_mask(segments)[row : row + 1], causal_mask(segments[row : row + 1]))


lengths = st.lists(st.integers(1, 4), max_size=4)


@settings(max_examples=100, deadline=None)
@given(prompts=lengths, padding=st.integers(0, 3), image=st.integers(1, 4), hidden=st.integers(0, 3))
def test_nobody_looks_across(prompts: list[int], padding: int, image: int, hidden: int) -> None:
    """Over any packing: a token sees the whole image, its own prompt, nothing else; and nobody sees nothing."""
    own = [number for number, length in enumerate(prompts, start=1) for _ in range(length)]
    segments = torch.tensor([own + [-1] * padding])
    image_mask = torch.tensor([[True] * image + [False] * hidden])
    memory = torch.cat([torch.where(image_mask, 0, -1), segments], dim=1)
    to_prompts = prompt_mask(image_mask, segments)[0, 0]
    to_memory = cross_mask(segments, memory)[0, 0]
    back = causal_mask(segments)[0, 0]
    for mask in (to_prompts, to_memory, back):
        assert mask.any(-1).all()
    for i, mine in enumerate(own):
        expected = [T] * image + [F_] * hidden + [other == mine for other in own] + [F_] * padding
        assert to_prompts[i].tolist() == expected
        assert to_memory[i].tolist() == expected
        assert back[i].tolist() == [other == mine and j <= i for j, other in enumerate(own)] + [F_] * padding
