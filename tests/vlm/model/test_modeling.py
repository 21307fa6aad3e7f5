"""What the one-look model promises: packing, padding, batches and caches change nothing."""

# B batch (rows), P prompts, T target tokens, V vocabulary

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

import vlm  # noqa: F401 - registers the model
from vlm.model import ImageFeatures, Memory, OneLookConfig, OneLookModel
from vlm.processor import OneLookProcessor, PackedTarget

TOLERANCE = 1e-4
PROMPTS = ("input_ids", "segment_ids", "position_ids")
TARGETS = ("decoder_input_ids", "decoder_segment_ids", "decoder_position_ids")

ROWS = [
    [
        ("<caption>brief", "a tan coat"),
        ("<vqa>what colour are the boots?", "tan"),
        ("<detect>", "coat<loc_3><loc_4><loc_500><loc_999>"),
    ],
    [("<vqa>how long are the sleeves?", "not visible"), ("<ground>the bag", "none")],
    [("<attributes>coat<loc_1><loc_2><loc_30><loc_40>", "colour: tan, brown; pattern: solid")],
    [
        ("<ground>the coat", "<loc_0><loc_10><loc_400><loc_800>"),
        ("<caption>detailed", "black trousers and brown ankle boots"),
    ],
]


def collate(
    processor: OneLookProcessor, photos: Sequence[Image.Image], rows: Sequence[Sequence[tuple[str, str]]]
) -> dict[str, Any]:
    """Text targets weigh 1, those with locations 2."""
    targets = [
        [PackedTarget(ids=processor.encode_target(text), weight=2.0 if "<loc_" in text else 1.0) for _, text in row]
        for row in rows
    ]
    return processor.collate(photos, [[prompt for prompt, _ in row] for row in rows], targets)


def unpacked(photos: Sequence[Image.Image]) -> tuple[list[Image.Image], list[list[tuple[str, str]]]]:
    """One prompt a row, its picture again in each."""
    pairs = [(photo, [pair]) for photo, row in zip(photos, ROWS, strict=True) for pair in row]
    return [photo for photo, _ in pairs], [row for _, row in pairs]


def by_prompt(values_BT: Tensor, batch: dict[str, Any]) -> list[Tensor]:
    """The labelled positions of every prompt, in the order of rows and prompts."""
    found = []
    for values, labels, segments in zip(values_BT, batch["labels"], batch["decoder_segment_ids"], strict=True):
        for segment in range(1, int(segments.max()) + 1):
            found.append(values[(segments == segment) & (labels != -100)])
    return found


def run(model: OneLookModel, batch: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Loss, and each prompt's logits."""
    with torch.no_grad():
        output = model(**batch, return_logits=True)
    return output.loss, by_prompt(output.logits, batch)


def encode(model: OneLookModel, batch: dict[str, Any]) -> ImageFeatures:
    return model.encode_images(batch["pixel_values"], batch["image_index"])


def remember(model: OneLookModel, features: ImageFeatures, batch: dict[str, Any]) -> Memory:
    return model.encode_prompts(features, *(batch[name] for name in PROMPTS))


def answer(model: OneLookModel, features: ImageFeatures, batch: dict[str, Any]) -> Tensor:
    """Teacher-forced logits of a batch over features that are there already."""
    return model.logits(model.decode(*(batch[name] for name in TARGETS), remember(model, features, batch)))


def assert_same(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=TOLERANCE)


def variant(model: OneLookModel, **changes: object) -> OneLookModel:
    """A model of another shape, with weights of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return OneLookModel(OneLookConfig(**{**model.config.to_dict(), **changes})).eval()


def test_packed_is_unpacked(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    loss, logits = run(tiny_model, collate(tiny_processor, photos, ROWS))
    loss_alone, logits_alone = run(tiny_model, collate(tiny_processor, *unpacked(photos)))
    assert_same(logits, logits_alone)
    assert float(loss) == pytest.approx(float(loss_alone), abs=TOLERANCE)


def test_packed_gradients_are_unpacked_gradients(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    def gradients(batch: dict[str, Any]) -> dict[str, Tensor]:
        tiny_model.zero_grad()
        tiny_model(**batch).loss.backward()
        found = {name: p.grad.clone() for name, p in tiny_model.named_parameters() if p.grad is not None}
        tiny_model.zero_grad()
        return found

    packed = gradients(collate(tiny_processor, photos, ROWS))
    alone = gradients(collate(tiny_processor, *unpacked(photos)))
    assert packed.keys() == alone.keys() == {name for name, _ in tiny_model.named_parameters()}
    for name, gradient in packed.items():
        assert float(alone[name].norm()) > 0, name
        assert float((gradient - alone[name]).norm() / alone[name].norm()) < 2e-4, name


def test_neighbours_in_the_batch_change_nothing(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """Every row alone, against all together: other shapes of picture, other lengths, more padding."""
    _, together = run(tiny_model, collate(tiny_processor, photos, ROWS))
    alone = [
        logits
        for photo, row in zip(photos, ROWS, strict=True)
        for logits in run(tiny_model, collate(tiny_processor, [photo], [row]))[1]
    ]
    assert_same(together, alone)


def test_padding_changes_nothing(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """Wider rows, whatever the padding holds."""
    batch = collate(tiny_processor, photos, ROWS)
    wide = dict(batch)
    fill = {"segment_ids": -1, "decoder_segment_ids": -1, "labels": -100, "token_weights": 3.0}
    for name in PROMPTS:
        wide[name] = F.pad(batch[name], (0, 7), value=fill.get(name, 11))
    for name in (*TARGETS, "labels", "token_weights"):
        wide[name] = F.pad(batch[name], (0, 9), value=fill.get(name, 13))
    loss, logits = run(tiny_model, batch)
    loss_wide, logits_wide = run(tiny_model, wide)
    assert_same(logits, logits_wide)
    assert float(loss) == pytest.approx(float(loss_wide), abs=1e-5)


@torch.no_grad()
def test_padding_of_image_tokens_changes_nothing(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    batch = collate(tiny_processor, photos, ROWS)
    features = encode(tiny_model, batch)
    rows, num = features.mask_BI.shape

    def widened(x: Tensor) -> Tensor:
        return torch.cat([x, torch.randn(*x.shape[:-2], 5, x.shape[-1])], dim=-2)

    wide = ImageFeatures(
        widened(features.hidden_BID),
        torch.cat([features.mask_BI, torch.zeros(rows, 5, dtype=torch.bool)], dim=1),
        [(widened(key), widened(value)) for key, value in features.joint],
    )
    assert wide.hidden_BID.shape[1] == num + 5
    assert_same(*(by_prompt(answer(tiny_model, f, batch), batch) for f in (features, wide)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_prompt_sees_neither_other_prompts_nor_their_targets(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image], place: int
) -> None:
    """Change one, be it the first, in length too: the others' logits stay, and only they."""
    prompt, target = ROWS[0][place]
    _, before = run(tiny_model, collate(tiny_processor, photos[:1], ROWS[:1]))
    for other in [("<vqa>is there a hat on her head, crêpe?", target), (prompt, "裙子 or crêpe")]:
        changed = [other if index == place else pair for index, pair in enumerate(ROWS[0])]
        _, after = run(tiny_model, collate(tiny_processor, photos[:1], [changed]))
        kept = [index for index in range(3) if index != place]
        assert_same([before[i] for i in kept], [after[i] for i in kept])
        length = min(len(before[place]), len(after[place]))
        assert float((before[place][:length] - after[place][:length]).abs().max()) > 1e-2


def test_no_gradient_crosses_prompts(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """To the bit: what a prompt's target computes does not depend on any token of another prompt or target."""
    row = [list(range(start, start + 4)) for start in (300, 310, 320)]
    answers = [[PackedTarget(ids=[*range(start, start + 4), 2]) for start in (400, 410, 420)]]
    batch = tiny_processor.collate(photos[:1], [row], answers)
    memory = remember(tiny_model, encode(tiny_model, batch), batch)
    hidden = tiny_model.decode(*(batch[name] for name in TARGETS), memory)
    for number in range(3):
        tiny_model.zero_grad()
        hidden[batch["decoder_segment_ids"] == number + 1].square().sum().backward(retain_graph=True)
        used = tiny_model.tokens.embedding.weight.grad.abs().sum(-1).nonzero()[:, 0].tolist()
        mine = [*row[number], *answers[0][number].ids[:-1], tiny_model.config.bos_token_id]
        assert used == sorted(mine)
    tiny_model.zero_grad()


def test_image_tokens_do_not_depend_on_prompts(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    batch, other = (collate(tiny_processor, photos, rows) for rows in (ROWS, ROWS[::-1]))
    features = encode(tiny_model, batch)
    num = features.hidden_BID.shape[1]
    first, second = (remember(tiny_model, features, b).hidden_BMD[:, :num] for b in (batch, other))
    assert torch.equal(first, second)
    tiny_model.zero_grad()
    first.square().sum().backward()
    assert not tiny_model.tokens.embedding.weight.grad.any()  # no word reaches the image
    assert tiny_model.tower.stem.conv.weight.grad.abs().sum() > 0
    tiny_model.zero_grad()


def test_the_picture_matters(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """Otherwise all of the above would hold of a model that is blind."""
    _, first = run(tiny_model, collate(tiny_processor, photos[:1], ROWS[:1]))
    _, second = run(tiny_model, collate(tiny_processor, photos[3:], ROWS[:1]))
    assert all(float((a - b).abs().max()) > 0.05 for a, b in zip(first, second, strict=True))


def test_a_target_does_not_see_ahead(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    texts = ("a tan coat and black boots", "a tan coat")
    batches = [collate(tiny_processor, photos[:1], [[("<caption>brief", text)]]) for text in texts]
    (_, [long]), (_, [short]) = (run(tiny_model, batch) for batch in batches)
    assert len(long) > len(short) > 3
    assert_same([long[: len(short)]], [short])


# -- one look ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_features_are_reused_to_the_bit(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """One look serves one set of prompts after another, and gives what a look for each would."""
    batches = [collate(tiny_processor, photos, rows) for rows in (ROWS, ROWS[::-1], ROWS)]
    kept = encode(tiny_model, batches[0])
    reused = [answer(tiny_model, kept, batch) for batch in batches]
    afresh = [answer(tiny_model, encode(tiny_model, batch), batch) for batch in batches]
    for first, second in zip(reused, afresh, strict=True):
        assert torch.equal(first, second)
    assert torch.equal(reused[0], reused[2])
    assert reused[0].shape != reused[1].shape or not torch.equal(reused[0], reused[1])
    output = tiny_model(**batches[0], return_logits=True)
    assert torch.equal(output.logits, reused[0])


@torch.no_grad()
def test_ready_made_keys_are_one_sequence_of_image_and_prompts(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """Layer by layer, against joint layers that run over all tokens at once under a mask."""
    model = variant(tiny_model, num_joint_layers=3)
    batch = collate(tiny_processor, photos[:1], ROWS[:1])
    entered: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []  # what the joint layers are given: the image, the prompts
    hook = model.joint_layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[:2]))
    memory = remember(model, encode(model, batch), batch)
    hook.remove()
    (image, image_at), (prompts, prompts_at) = entered
    hidden = torch.cat([image, prompts], dim=1)
    at = tuple(torch.cat(pair, dim=2) for pair in zip(image_at, prompts_at, strict=True))
    segments = torch.cat([torch.zeros(1, image.shape[1], dtype=torch.long), batch["segment_ids"]], dim=1)[0]
    sees = (segments[None, :] == 0) | (segments[:, None] == segments[None, :])
    for layer in model.joint_layers:
        hidden, _ = layer(hidden, at, sees[None, None])
    torch.testing.assert_close(memory.hidden_BMD, model.memory_norm(hidden), atol=TOLERANCE, rtol=TOLERANCE)
    assert torch.equal(memory.segments_BM[0], segments)


@torch.no_grad()
def test_selected_features_are_those_of_the_rows(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """In any order and several times, as if these pictures had been looked at."""
    rows = [2, 0, 2]
    kept = encode(tiny_model, tiny_processor.collate_images(photos))
    chosen = kept.select(torch.tensor(rows))
    assert torch.equal(chosen.hidden_BID, kept.hidden_BID[rows])
    assert torch.equal(chosen.mask_BI, kept.mask_BI[rows])
    for (key, value), (all_keys, all_values) in zip(chosen.joint, kept.joint, strict=True):
        assert torch.equal(key, all_keys[rows])
        assert torch.equal(value, all_values[rows])
    batch = collate(tiny_processor, [photos[row] for row in rows], ROWS[:3])
    assert_same(*(by_prompt(answer(tiny_model, f, batch), batch) for f in (chosen, encode(tiny_model, batch))))


@torch.no_grad()
def test_groups_of_shapes_come_out_in_the_order_of_the_batch(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    batch = tiny_processor.collate_images(photos)
    assert len(batch["pixel_values"]) > 1
    features = encode(tiny_model, batch)
    assert not features.mask_BI.all()  # the shapes differ in their number of tokens too
    for index, photo in enumerate(photos):
        alone = tiny_model.encode_images(tiny_processor.collate_images([photo])["pixel_values"])
        num = alone.hidden_BID.shape[1]
        assert features.mask_BI[index].tolist() == [True] * num + [False] * (features.mask_BI.shape[1] - num)
        torch.testing.assert_close(features.hidden_BID[index, :num], alone.hidden_BID[0], atol=1e-4, rtol=1e-4)
        for (keys, values), (key, value) in zip(features.joint, alone.joint, strict=True):
            torch.testing.assert_close(keys[index, :, :num], key[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(values[index, :, :num], value[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_order_of_groups_and_within_them_does_not_matter(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    batch = collate(tiny_processor, photos, ROWS)
    turned = dict(batch)
    turned["pixel_values"] = [group.flip(0) for group in reversed(batch["pixel_values"])]
    turned["image_index"] = [index.flip(0) for index in reversed(batch["image_index"])]
    assert max(map(len, batch["image_index"])) > 1  # else nothing is turned within a group
    expected, found = encode(tiny_model, batch), encode(tiny_model, turned)
    assert torch.equal(found.mask_BI, expected.mask_BI)
    assert_same([found.hidden_BID, *found.joint[0]], [expected.hidden_BID, *expected.joint[0]])
    assert_same(*(by_prompt(answer(tiny_model, f, batch), batch) for f in (expected, found)))
    # One group alone has an order too.
    one = tiny_processor.collate_images([photos[0], photos[3]])
    backwards = tiny_model.encode_images(one["pixel_values"], [torch.tensor([1, 0])])
    in_order = tiny_model.encode_images(one["pixel_values"])
    assert torch.equal(backwards.hidden_BID, in_order.hidden_BID.flip(0))


@torch.no_grad()
def test_steps_with_caches_are_teacher_forcing(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """Rows of several slots, one token at a time, against each whole target by itself; a slot is padding."""
    memory, slots = slots_of_two_rows(tiny_model, tiny_processor, photos)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, 500, (2, 4, 6), generator=generator)
    tokens[:, :, 0] = tiny_model.config.bos_token_id
    state = tiny_model.start_decode(memory, slots)
    states = torch.stack([tiny_model.decode_step(tokens[:, :, step], state) for step in range(6)], dim=2)
    steps = tiny_model.logits(states)
    for b in range(2):
        for slot in range(4):
            if slots[b, slot] > 0:
                expected = teacher_forced(tiny_model, memory, b, int(slots[b, slot]), tokens[b, slot])
                assert_same([steps[b, slot]], [expected])
    assert torch.isfinite(steps).all()


@torch.no_grad()
def test_a_slot_takes_over_the_history_of_another(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """As beams do: after `select` the next scores are those of the inherited history."""
    memory, slots = slots_of_two_rows(tiny_model, tiny_processor, photos)
    generator = torch.Generator().manual_seed(1)
    parents = torch.tensor([[1, 1, 0, 3], [0, 2, 1, 3]])  # within the first prompt's slots of each row
    assert torch.equal(slots.gather(1, parents), slots)
    histories = torch.full((2, 4, 1), tiny_model.config.bos_token_id)
    state = tiny_model.start_decode(memory, slots)
    for step in range(5):
        logits = tiny_model.logits(tiny_model.decode_step(histories[:, :, -1], state))
        for b in range(2):
            for slot in range(4):
                if slots[b, slot] > 0:
                    expected = teacher_forced(tiny_model, memory, b, int(slots[b, slot]), histories[b, slot])
                    assert_same([logits[b, slot]], [expected[-1]])
        if step in (1, 3):
            state.select(torch.arange(2), parents)
            histories = histories.gather(1, parents[..., None].expand(-1, -1, histories.shape[2]))
        new = torch.randint(20, 500, (2, 4, 1), generator=generator)
        histories = torch.cat([histories, new], dim=2)


@torch.no_grad()
def test_runs_of_any_length_are_teacher_forcing(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """Slots fed several tokens at once, one, or none, each from its own position; what was fed before at a position is
    forgotten. In between a token for every slot where all are as far, and slots that go."""
    memory, slots = slots_of_two_rows(tiny_model, tiny_processor, photos)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(20, 500, (8, 40), generator=generator)
    tokens[:, 0] = tiny_model.config.bos_token_id
    state = tiny_model.start_decode(memory, slots)

    def feed(starts: Sequence[int], lengths: Sequence[int], of: Sequence[int] = range(8)) -> None:
        runs = [
            (start, tokens[n, start : start + length].tolist())
            for n, start, length in zip(of, starts, lengths, strict=True)
        ]
        logits = tiny_model.logits(tiny_model.decode_runs(runs, state))
        assert len(logits) == sum(lengths)
        for (start, fed), n, found in zip(runs, of, logits.split(list(lengths)), strict=True):
            if fed:
                whole = teacher_forced(
                    tiny_model, memory, n // 4, int(slots[n // 4, n % 4]), tokens[n, : start + len(fed)]
                )
                assert_same([found], [whole[start:]])

    feed([0] * 8, [1, 2, 3, 4, 2, 1, 5, 0])
    right = tokens[2, 1:3].clone()
    tokens[2, 1:3] = right.flip(0)
    feed([1, 2, 1, 4, 2, 1, 5, 0], [4, 3, 4, 1, 3, 4, 0, 0])  # the third slot's second and third token are others now
    together = tiny_model.logits(tiny_model.decode_step(tokens[:, 5].view(2, 4), state)).flatten(0, 1)
    for n in range(7):
        expected = teacher_forced(tiny_model, memory, n // 4, int(slots[n // 4, n % 4]), tokens[n, :6])
        assert_same([together[n]], [expected[-1]])
    feed([*[6] * 7, 0], [20, 1, 2, 1, 1, 1, 1, 0])  # beyond what the caches have room for
    state.select(torch.tensor([0]), torch.tensor([[3, 1]]))
    feed([7, 7], [1, 3], of=[3, 1])


@torch.no_grad()
def test_rows_and_slots_go_and_the_others_go_on(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: Sequence[Image.Image]
) -> None:
    memory, slots = slots_of_two_rows(tiny_model, tiny_processor, photos)
    tokens = torch.randint(20, 500, (2, 4, 5), generator=torch.Generator().manual_seed(2))
    state = tiny_model.start_decode(memory, slots)
    for step in range(3):
        tiny_model.decode_step(tokens[:, :, step], state)
    state.select(torch.tensor([1]), torch.tensor([[2, 0]]))
    tokens = tokens[1:, [2, 0]]
    for step in (3, 4):
        logits = tiny_model.logits(tiny_model.decode_step(tokens[:, :, step], state))
    for slot in range(2):
        expected = teacher_forced(tiny_model, memory, 1, 1, tokens[0, slot])
        assert_same([logits[0, slot]], [expected[-1]])


def slots_of_two_rows(
    model: OneLookModel, processor: OneLookProcessor, photos: Sequence[Image.Image]
) -> tuple[Memory, Tensor]:
    """Two pictures of different shapes with two prompts and one; slots for them, one of them padding."""
    batch = collate(processor, photos[:2], [ROWS[1], ROWS[2]])
    memory = remember(model, encode(model, batch), batch)
    return memory, torch.tensor([[1, 1, 1, 2], [1, 1, 1, -1]])


def teacher_forced(model: OneLookModel, memory: Memory, row: int, segment: int, tokens: Tensor) -> Tensor:
    """Logits of one sequence (T x V) by `decode`."""
    hidden = model.decode(
        tokens[None],
        torch.full((1, len(tokens)), segment),
        torch.arange(len(tokens))[None],
        memory.select(torch.tensor([row])),
    )
    return model.logits(hidden)[0]


# -- loss ----------------------------------------------------------------------------------------------


def test_loss_by_hand(tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]) -> None:
    """Text tokens: cross-entropy; locations: against a Gaussian over the bins; each times its weight."""
    rows = ROWS[:2]
    targets = [
        [
            PackedTarget(ids=tiny_processor.encode_target(text), weight=1.0 + index)
            for index, (_, text) in enumerate(row)
        ]
        for row in rows
    ]
    batch = tiny_processor.collate(photos[:2], [[prompt for prompt, _ in row] for row in rows], targets)
    with torch.no_grad():
        output = tiny_model(**batch, return_logits=True)
    config = tiny_model.config
    total, weight = 0.0, 0.0
    for b in range(2):
        position = 0
        for target in targets[b]:
            for token in target.ids:
                logprobs = output.logits[b, position].double().log_softmax(-1)
                bin_ = token - config.first_location_id
                if 0 <= bin_ < 1000:
                    bins = torch.arange(1000, dtype=torch.float64)
                    mass = torch.exp(-((bins - bin_) ** 2) / (2 * config.location_sigma**2))
                    loss = -(mass / mass.sum() * logprobs[config.first_location_id :][:1000]).sum()
                else:
                    loss = -logprobs[token]
                assert float(output.token_loss[b, position]) == pytest.approx(float(loss), abs=1e-4)
                total += float(loss) * target.weight
                weight += target.weight
                position += 1
        assert not output.token_loss[b, position:].any()
    assert float(output.num_tokens) == pytest.approx(weight)
    assert float(output.loss_sum) == pytest.approx(total, rel=1e-5)
    assert float(output.loss) == pytest.approx(total / weight, rel=1e-5)


@torch.no_grad()
def test_a_masked_label_counts_nowhere(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """-100 in the middle of a target, not only in its padding."""
    batch = collate(tiny_processor, photos, ROWS)
    whole = tiny_model(**batch, return_logits=True)
    labels = batch["labels"].clone()
    labels[0, 1] = labels[2, 3] = labels[3, :] = -100
    output = tiny_model(**{**batch, "labels": labels}, return_logits=True)
    assert torch.equal(output.logits, whole.logits)
    kept = labels != -100
    assert_same([output.token_loss[kept]], [whole.token_loss[kept]])
    assert not output.token_loss[~kept].any()
    weights = batch["token_weights"]
    assert float(output.num_tokens) == pytest.approx(float(weights[kept].sum()))
    assert float(output.loss_sum) == pytest.approx(float((whole.token_loss * weights)[kept].sum()), rel=1e-5)
    assert float(output.loss) == pytest.approx(float(output.loss_sum / output.num_tokens))


@torch.no_grad()
def test_nothing_to_learn_is_no_loss(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    batch = collate(tiny_processor, photos, ROWS)
    output = tiny_model(**{**batch, "labels": torch.full_like(batch["labels"], -100)})
    assert float(output.loss) == float(output.loss_sum) == float(output.num_tokens) == 0.0


@torch.no_grad()
def test_no_weights_are_weights_of_one(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    batch = collate(tiny_processor, photos, ROWS)
    output = tiny_model(**{**batch, "token_weights": None})
    kept = batch["labels"] != -100
    assert int(output.num_tokens) == int(kept.sum())
    assert float(output.loss) == pytest.approx(float(output.token_loss[kept].mean()), rel=1e-5)
    assert float(output.loss) != pytest.approx(float(tiny_model(**batch).loss), abs=1e-3)


@torch.no_grad()
def test_without_labels_there_are_logits_alone(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    batch = collate(tiny_processor, photos, ROWS)
    expected = tiny_model(**batch, return_logits=True).logits
    assert tiny_model(**batch).logits is None
    output = tiny_model(**{**batch, "labels": None})
    assert output.loss is None
    assert torch.equal(output.logits, expected)
    assert output.logits.dtype == torch.float32


@pytest.mark.parametrize("bin_", [0, 2, 500, 999])
def test_location_target_by_hand(tiny_model: OneLookModel, bin_: int) -> None:
    """A Gaussian over the bins, cut off and brought back to one at the image's edges; text around it is not touched."""
    config = tiny_model.config
    assert config.location_sigma == 6.0
    first = config.first_location_id
    logits = torch.randn(2, config.vocab_size, generator=torch.Generator().manual_seed(bin_))
    text, location = tiny_model.token_losses(logits, torch.tensor([first - 1, first + bin_])).tolist()
    logprobs = logits.double().log_softmax(-1)
    mass = [math.exp(-((i - bin_) ** 2) / 72.0) for i in range(1000)]
    expected = -sum(m * float(logprobs[1, first + i]) for i, m in enumerate(mass)) / sum(mass)
    assert location == pytest.approx(expected, abs=1e-4)
    assert text == pytest.approx(-float(logprobs[0, first - 1]), abs=1e-4)


@torch.no_grad()
def test_region_labels_add_to_the_sum_of_losses(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image]
) -> None:
    """Each times `region_weight`; they add no tokens to divide by, and change no answer."""
    model = variant(tiny_model, region_classes=[3, 2], region_weight=0.25)
    batch = collate(tiny_processor, photos, ROWS)
    features = encode(model, batch)
    share = features.mask_BI / features.mask_BI.sum(1, keepdim=True)
    regions = {
        "region_rows": torch.tensor([0, 2, 2]),
        "region_weights": share[[0, 2, 2]],
        "region_labels": torch.tensor([[0, 1], [2, -100], [-100, 0]]),
    }
    plain, taught = (model(**batch, **extra, return_logits=True) for extra in ({}, regions))
    added = 0.25 * float(model.region_loss(features, *regions.values()))
    assert added > 0.1
    assert float(taught.loss_sum) == pytest.approx(float(plain.loss_sum) + added, rel=1e-5)
    assert float(taught.loss) == pytest.approx(float(taught.loss_sum / plain.num_tokens), rel=1e-5)
    assert torch.equal(taught.token_loss, plain.token_loss)
    assert torch.equal(taught.logits, plain.logits)


def test_a_near_miss_costs_less_than_a_far_one(tiny_model: OneLookModel) -> None:
    first = tiny_model.config.first_location_id
    logits = torch.zeros(3, tiny_model.config.vocab_size)
    for row, bin_ in enumerate((500, 505, 560)):
        logits[row, first + bin_] = 12.0
    exact, near, far = tiny_model.token_losses(logits, torch.full((3,), first + 500)).tolist()
    assert exact < near < far - 0.1


def test_sigma_zero_is_plain_cross_entropy(
    tiny_model: OneLookModel,
    tiny_processor: OneLookProcessor,
    photos: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = {**collate(tiny_processor, photos, ROWS), "token_weights": None}
    monkeypatch.setattr(tiny_model.config, "location_sigma", 0.0)
    with torch.no_grad():
        output = tiny_model(**batch, return_logits=True)
    expected = F.cross_entropy(output.logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    assert float(output.loss) == pytest.approx(float(expected), abs=1e-5)


# -- on disk -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_save_and_load(
    tiny_model: OneLookModel, tiny_processor: OneLookProcessor, photos: list[Image.Image], tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert isinstance(AutoConfig.from_pretrained(tmp_path), OneLookConfig)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, OneLookModel)
    assert not loaded.training
    for name in inspect.signature(OneLookConfig.__init__).parameters:
        if name not in ("self", "kwargs"):
            assert getattr(loaded.config, name) == getattr(tiny_model.config, name), name
    state = loaded.state_dict()
    assert state.keys() == tiny_model.state_dict().keys()
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(state[name], value), name
    batch = collate(tiny_processor, photos, ROWS)
    first, second = (m(**batch, return_logits=True) for m in (tiny_model, loaded))
    assert torch.equal(first.logits, second.logits)


def test_embeddings_are_stored_once(tiny_model: OneLookModel, tmp_path: Path) -> None:
    """Words in and scores out are one table, in memory and on disk."""
    tiny_model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == tiny_model.state_dict().keys()
    vocab_size = tiny_model.config.vocab_size
    assert [name for name, value in stored.items() if vocab_size in value.shape] == ["tokens.embedding.weight"]
    assert sum(value.numel() for value in stored.values()) == sum(p.numel() for p in tiny_model.parameters())


@torch.no_grad()
def test_scores_are_products_with_the_embeddings(tiny_model: OneLookModel) -> None:
    hidden = torch.randn(3, tiny_model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    scores = tiny_model.logits(hidden)
    torch.testing.assert_close(scores[:, 7], hidden @ tiny_model.tokens.embedding.weight[7], atol=1e-4, rtol=1e-4)
    location = tiny_model.config.first_location_id + 3
    torch.testing.assert_close(scores[:, location], hidden @ tiny_model.tokens.table()[location], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(scores[:, location], hidden @ tiny_model.tokens.embedding.weight[location], atol=1e-2)


def test_a_new_model_starts_at_the_scales_it_is_given() -> None:
    config = OneLookConfig(
        vocab_size=2560,
        first_location_id=536,
        hidden_size=128,
        head_dim=32,
        stem_width=8,
        stage_widths=(8, 128),
        stage_depths=(1, 1),
        num_decoder_layers=4,
        initializer_range=0.05,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OneLookModel(config)
    layer = model.decoder_layers[0]
    assert float(model.tokens.embedding.weight.detach().std()) == pytest.approx(0.05, rel=0.05)
    assert float(layer.cross_attention.query.weight.detach().std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(layer.self_attention.out.weight.detach().std()) == pytest.approx((128 * 8) ** -0.5, rel=0.05)
    assert float(model.tokens.location.weight.detach().std()) == pytest.approx(0.05 / 10**0.5, rel=0.1)
    assert torch.equal(layer.self_norm.weight, torch.ones(128))
