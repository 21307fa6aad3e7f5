"""Pictures and prompts to tensors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm.model import OneLookConfig, OneLookModel
from vlm.processor import ASPECTS, OneLookProcessor, PackedTarget, grid_shape, pack


@settings(max_examples=300, deadline=None)
@given(height=st.integers(1, 6000), width=st.integers(1, 6000), budget=st.integers(1, 600))
def test_grids_keep_the_budget(height: int, width: int, budget: int) -> None:
    rows, columns = grid_shape(height, width, budget)
    assert rows >= 1
    assert columns >= 1
    assert rows * columns <= budget


@settings(max_examples=300, deadline=None)
@given(height=st.integers(1, 5000), width=st.integers(1, 5000), budget=st.integers(24, 600))
def test_grids_keep_the_aspect_of_any_photo(height: int, width: int, budget: int) -> None:
    """Also of panoramas, to a log-ratio of 0.3 at small budgets and of 0.25 at those that are trained with."""
    assume(1 / 6 <= height / width <= 6)
    rows, columns = grid_shape(height, width, budget)
    assert abs(math.log(rows / columns / (height / width))) < (0.3 if budget < 63 else 0.25)


@pytest.mark.parametrize(
    ("height", "width", "budget", "grid"),
    [
        (1000, 1000, 108, (10, 10)),
        (1200, 800, 108, (12, 8)),  # portrait stays portrait
        (800, 1200, 108, (8, 12)),
        (1, 5000, 50, (1, 50)),  # longer than any grid
        (5000, 1, 50, (50, 1)),
        (300, 400, 1, (1, 1)),
        (100, 1000, 140, (4, 35)),  # longer than the known aspects: its own
    ],
)
def test_grids_by_hand(height: int, width: int, budget: int, grid: tuple[int, int]) -> None:
    assert grid_shape(height, width, budget) == grid


@pytest.mark.parametrize("budget", [63, 108, 140, 576])
def test_grids_keep_the_aspect_and_use_the_budget(budget: int) -> None:
    for percent in range(50, 201):
        rows, columns = grid_shape(percent * 10, 1000, budget)
        assert abs(math.log(rows / columns / (percent / 100))) < 0.33
        assert rows * columns > 0.75 * budget


def test_pictures_fall_into_few_shapes() -> None:
    shapes = {grid_shape(height, 1000, 108) for height in range(500, 2001)}
    assert len(shapes) == len(ASPECTS)


def test_pixels(tiny_processor: OneLookProcessor) -> None:
    pixels = tiny_processor.pixels(Image.new("RGB", (300, 400), (255, 0, 0)))
    stride = tiny_processor.config.stride
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3
    assert pixels.shape[1] % stride == pixels.shape[2] % stride == 0
    assert pixels[:, 0, 0].tolist() == [255, 0, 0]
    floats = tiny_processor.normalize(pixels)
    assert floats[:, 0, 0].tolist() == pytest.approx([127.5 / 64, -127.5 / 64, -127.5 / 64])


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), budget=st.sampled_from([None, 1, 9, 63]))
def test_pictures_become_whole_tokens(
    tiny_processor: OneLookProcessor, height: int, width: int, budget: int | None
) -> None:
    stride, limit = tiny_processor.config.stride, budget or tiny_processor.config.patch_budget
    resized = tiny_processor.resize(Image.new("RGB", (width, height)), budget)
    assert resized.height % stride == resized.width % stride == 0
    assert (resized.height // stride, resized.width // stride) == grid_shape(height, width, limit)
    assert 0 < resized.height * resized.width <= limit * stride**2


def test_a_picture_keeps_its_way_up(tiny_processor: OneLookProcessor) -> None:
    """Rows are rows, channels come first and in the order red, green, blue."""
    image = Image.new("RGB", (60, 40), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 60, 10))  # a red strip on top
    pixels = tiny_processor.pixels(image)
    assert pixels.shape[1] < pixels.shape[2]
    assert pixels[:, 2, :].float().mean(1).tolist() == pytest.approx([255, 0, 0], abs=3)
    assert pixels[:, -2, :].float().mean(1).tolist() == pytest.approx([0, 0, 255], abs=3)


def test_pictures_of_one_shape_make_one_group(tiny_processor: OneLookProcessor, photos: list[Image.Image]) -> None:
    groups = tiny_processor.collate_images(photos)
    assert [index.tolist() for index in groups["image_index"]] == [[0, 3], [1], [2]]
    for pixels, index in zip(groups["pixel_values"], groups["image_index"], strict=True):
        assert pixels.dtype == torch.float32
        for picture, i in zip(pixels, index.tolist(), strict=True):
            assert torch.equal(picture, tiny_processor.normalize(tiny_processor.pixels(photos[i])))
    ready = tiny_processor.collate_images([tiny_processor.pixels(photo) for photo in photos])
    for ours, theirs in zip(groups["pixel_values"], ready["pixel_values"], strict=True):
        assert torch.equal(ours, theirs)


def test_collate(tiny_processor: OneLookProcessor, photos: list[Image.Image]) -> None:
    targets = [[PackedTarget(ids=(5, 6, 2)), PackedTarget(ids=(7, 2), weight=0.5)], [PackedTarget(ids=(8, 2))]]
    batch = tiny_processor.collate(photos[:2], [["<detect>", "<vqa>hat?"], ["<detect>"]], targets)
    assert batch["labels"].tolist() == [[5, 6, 2, 7, 2], [8, 2, -100, -100, -100]]
    assert batch["decoder_input_ids"].tolist() == [[1, 5, 6, 1, 7], [1, 8, 0, 0, 0]]
    assert batch["decoder_segment_ids"].tolist() == [[1, 1, 1, 2, 2], [1, 1, -1, -1, -1]]
    assert batch["decoder_position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]]
    assert batch["token_weights"].tolist() == [[1, 1, 1, 0.5, 0.5], [1, 1, 0, 0, 0]]
    singly = [[PackedTarget(ids=(5, 6, 2), weight=(0.5, 3, 1))], [PackedTarget(ids=(8, 2), weight=2)]]
    weighed = tiny_processor.collate(photos[:2], [["<detect>"], ["<detect>"]], singly)
    assert weighed["token_weights"].tolist() == [[0.5, 3, 1], [2, 2, 0]]
    [detect] = tiny_processor.encode_prompt("<detect>")
    assert batch["input_ids"][:, 0].tolist() == [detect, detect]
    assert batch["segment_ids"][1].tolist()[:2] == [1, -1]
    assert sorted(index for group in batch["image_index"] for index in group.tolist()) == [0, 1]


def test_collate_without_targets(tiny_processor: OneLookProcessor, photos: list[Image.Image]) -> None:
    """Text and ids may mix; a picture without prompts has a row of padding."""
    text = "<vqa>hat?"
    ids = tiny_processor.encode_prompt(text)
    batch = tiny_processor.collate(photos[:3], [[text, ids], [], [ids]])
    assert set(batch) == {"pixel_values", "image_index", "input_ids", "segment_ids", "position_ids"}
    assert batch["input_ids"].tolist() == [ids + ids, [0] * 2 * len(ids), ids + [0] * len(ids)]
    assert batch["segment_ids"][0].tolist() == [1] * len(ids) + [2] * len(ids)
    assert batch["segment_ids"][1].tolist() == [-1] * 2 * len(ids)


rows_of_sequences = st.lists(st.lists(st.lists(st.integers(3, 99), max_size=4), max_size=4), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(rows=rows_of_sequences)
def test_packed_sequences_can_be_taken_apart_again(rows: list[list[list[int]]]) -> None:
    values, segments, positions = pack(rows, -100)
    assert values.shape == (len(rows), max(sum(map(len, row)) for row in rows))
    assert values.dtype == segments.dtype == positions.dtype == torch.long
    for index, row in enumerate(rows):
        for number, sequence in enumerate(row, start=1):
            here = segments[index] == number
            assert values[index][here].tolist() == sequence
            assert positions[index][here].tolist() == list(range(len(sequence)))
        padding = segments[index] == -1
        assert int(padding.sum()) == values.shape[1] - sum(map(len, row))
        assert (values[index][padding] == -100).all()


def test_pack_of_nothing() -> None:
    values, segments, positions = pack([[], []], 0)
    assert values.shape == segments.shape == positions.shape == (2, 0)


def test_decode_drops_what_is_not_text(tiny_processor: OneLookProcessor) -> None:
    ids = tiny_processor.encode_target("a tan coat<loc_7>")
    assert ids[-1] == tiny_processor.config.eos_token_id
    assert tiny_processor.decode([1, *ids, 0, 0]) == "a tan coat<loc_7>"
    assert tiny_processor.decode(torch.tensor([1, *ids, 0])) == "a tan coat<loc_7>"
    assert tiny_processor.decode([1, 2, 0, 0]) == tiny_processor.decode([]) == ""


def test_save_and_load(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image], tmp_path: Path
) -> None:
    tiny_model.config.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    for loaded in (
        OneLookProcessor.from_pretrained(tmp_path),
        OneLookProcessor.from_pretrained(str(tmp_path), tiny_model.config),
    ):
        assert loaded.patch_budget == tiny_processor.patch_budget
        assert loaded.encode_target("a tan coat<loc_7>") == tiny_processor.encode_target("a tan coat<loc_7>")
        assert torch.equal(loaded.pixels(photos[1]), tiny_processor.pixels(photos[1]))


def test_parts_of_different_checkpoints(tiny_processor: OneLookProcessor, photos: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="not of one checkpoint"):
        OneLookProcessor(tiny_processor.tokenizer, OneLookConfig(vocab_size=2300, first_location_id=200))
    with pytest.raises(ValueError, match="2 images but prompts for 1"):
        tiny_processor.collate(photos[:2], [["<detect>"]])
