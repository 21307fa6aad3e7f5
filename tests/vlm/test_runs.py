"""Tokens that the grammar forces, or nearly so, go through the decoder in runs: the answers are those of one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image

from tasks import TASKS
from tasks.grammar import Choice, Literal, Repeat, Sequence, compile_grammar
from tasks.ontology import attributes_of
from vlm.api import VLM, load
from vlm.demo import PERSON
from vlm.families import Prompt
from vlm.generate import Decoding, Generated
from vlm.request import Request
from vlm.search import Search
from vlm.token_masks import TokenMasks

SIZE = (60, 40)
INPUTS: list[tuple[str, dict[str, Any]]] = [
    ("attributes", {"garment": "coat", "box": None, "attributes": attributes_of("coat")}),
    ("attributes", {"garment": "bag", "box": None, "attributes": ("colour", "material")}),
    ("caption", {"detail": "brief"}),
    ("grounding", {"phrase": "the red bag"}),
    ("detection", {}),
    ("vqa", {"question": "what colour are the boots?"}),
]
WAYS = {"greedy": {}, "beam": {"num_beams": 3}, "sampling": {"temperature": 1.0, "top_p": 0.9, "seed": 5}}


def prompt(image: int, task: str, inputs: dict[str, Any], **options: Any) -> Prompt:
    grammar = compile_grammar(TASKS[task].grammar(inputs))
    text = TASKS[task].prompt(inputs, SIZE)
    return Prompt(image=image, text=text, automaton=grammar, decoding=Decoding(**options))


@pytest.fixture(scope="module")
def embedded() -> VLM:
    return load(device="cpu")


@contextmanager
def one_by_one() -> Iterator[None]:
    """Every token is chosen, and fed alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "run", lambda self: ())
        patch.setattr(Search, "forced", lambda self: [])
        yield


@contextmanager
def counted(model: Any) -> Iterator[list[str]]:
    """The decoder's steps, by their kind."""
    steps: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("decode_step", "decode_runs"):
            real = getattr(model, name)

            def watching(*given: Any, real: Any = real, name: str = name) -> Any:
                steps.append(name)
                return real(*given)

            patch.setattr(model, name, watching)
        yield steps


def assert_same(found: Generated, expected: Generated) -> None:
    assert found.text == expected.text
    assert found.token_ids == expected.token_ids
    assert found.truncated == expected.truncated
    assert found.spans == expected.spans
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    # As probabilities: a location's is the difference of two sums, which rounds.
    assert list(map(math.exp, found.confidences)) == pytest.approx(list(map(math.exp, expected.confidences)), abs=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 96])
def test_runs_change_nothing(tiny: VLM, photos: list[Image.Image], way: str, limit: int) -> None:
    """With random weights most guesses are wrong, and have to be forgotten."""
    features = tiny.family.encode_images(photos[:2])
    prompts = [prompt(i, *item, max_new_tokens=limit, **WAYS[way]) for i in range(2) for item in INPUTS]
    with counted(tiny.family.model) as steps:
        found = tiny.family.generate(features, prompts)
    with one_by_one():
        expected = tiny.family.generate(features, prompts)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert ("decode_runs" in steps) == (way == "greedy" and limit > 1)


def test_greedy_sampled_and_beams_in_one_batch(tiny: VLM, photos: list[Image.Image]) -> None:
    features = tiny.family.encode_images(photos[:2])
    prompts = [
        prompt(i, *INPUTS[number], max_new_tokens=limit, **WAYS[way])
        for (i, (number, limit)), way in itertools.product(enumerate([(0, 40), (4, 9)]), WAYS)
    ]
    found = tiny.family.generate(features, prompts)
    with one_by_one():
        expected = tiny.family.generate(features, prompts)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("limit", [None, 11])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_values_and_their_scores_are_the_same(embedded: VLM, limit: int | None, num_beams: int) -> None:
    """Trained weights, whose guesses are right, and several garments of unequal length."""
    [look] = embedded.encode([PERSON])
    garments = ("coat", "jeans", "sneakers", "hat")
    asked = [
        Request(look, "attributes", garment=name, max_new_tokens=limit, num_beams=num_beams) for name in garments
    ] + [Request(look, "detection", max_new_tokens=limit, num_beams=num_beams)]
    with counted(embedded.family.model) as fast:
        found = embedded.generate(asked)
    with one_by_one(), counted(embedded.family.model) as slow:
        expected = embedded.generate(asked)
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        assert one.truncated == other.truncated == (limit is not None)
        assert {k: v.values for k, v in one.values.items()} == {k: v.values for k, v in other.values.items()}
        assert [v.score for v in one.values.values()] == pytest.approx(
            [v.score for v in other.values.values()], abs=1e-5
        )
    assert [(g.label, g.box) for g in found[-1].objects] == [(g.label, g.box) for g in expected[-1].objects]
    assert [g.score for g in found[-1].objects] == pytest.approx([g.score for g in expected[-1].objects], abs=1e-5)
    assert len(fast) < len(slow) if num_beams == 1 else len(fast) == len(slow)


def test_attributes_take_a_third_of_the_steps(embedded: VLM) -> None:
    [look] = embedded.encode([PERSON])
    asked = [Request(look, "attributes", garment=name) for name in ("coat", "jeans")]
    with counted(embedded.family.model) as fast:
        replies = embedded.reply(asked)
    longest = max(len(reply.generated.token_ids) for reply in replies)
    assert longest > 20
    assert len(fast) <= 0.4 * longest


def test_a_text_without_a_choice_takes_no_step(tiny: VLM, photos: list[Image.Image]) -> None:
    """Only one token spells "~", and then only the end may come."""
    wanted = Prompt(
        image=0, text="<caption>", automaton=compile_grammar(Literal("~")), decoding=Decoding(max_new_tokens=9)
    )
    with counted(tiny.family.model) as steps:
        [said] = tiny.family.generate(tiny.family.encode_images(photos[:1]), [wanted])
    assert steps == []
    assert said.text == "~"
    assert said.logprobs == (0.0, 0.0)
    assert not said.truncated


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_forced_text_ends_at_the_limit(tiny: VLM, photos: list[Image.Image], limit: int) -> None:
    wanted = Prompt(
        image=0, text="<caption>", automaton=compile_grammar(Literal("~~")), decoding=Decoding(max_new_tokens=limit)
    )
    features = tiny.family.encode_images(photos[:1])
    [said] = tiny.family.generate(features, [wanted])
    with one_by_one():
        [expected] = tiny.family.generate(features, [wanted])
    assert_same(said, expected)
    assert len(said.token_ids) <= limit
    assert said.truncated == (limit < 3)


def masks(model: VLM) -> TokenMasks:
    found: TokenMasks = model.family.masks  # type: ignore[attr-defined]
    return found


def token_of(known: TokenMasks, data: bytes) -> int:
    return next(token for token in range(known.vocab_size) if known.token_bytes(token) == data)


def test_a_run_is_what_the_text_must_go_on_with(embedded: VLM) -> None:
    """Up to the first choice; the end is none, and of several ways to cut the text it is the longest tokens."""
    known = masks(embedded)
    start = known.start(compile_grammar(TASKS["attributes"].grammar({"attributes": ("colour", "pattern")})))
    run = known.run(start)
    assert b"".join(known.token_bytes(token) for token, _ in run) == b"colour:"  # " black" takes the space along
    state = start
    for token, after in run:
        allowed = known.mask(state)
        assert allowed[token]
        assert max(len(known.token_bytes(i)) for i in allowed.nonzero()[:, 0].tolist()) == len(known.token_bytes(token))
        state = known.next_state(state, token)
        assert after == state
    assert known.run(state) == ()
    separated = compile_grammar(Sequence((Repeat(Choice((Literal("a"), Literal("b"))), Literal(";"), max=2),)))
    state = known.next_state(known.start(separated), token_of(known, b"a"))
    assert [known.token_bytes(token) for token, _ in known.run(state)] == [b";"]  # or the end


def test_a_run_has_an_end(tiny: VLM) -> None:
    known = masks(tiny)
    forever = compile_grammar(Repeat(Literal("~")))
    assert 0 < len(known.run(known.start(forever))) <= 16


@torch.inference_mode()
def test_free_text_is_scored_over_what_may_come_alone(
    tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often its state has come."""
    features = tiny.family.encode_images(photos[:2])
    prompts = [prompt(i, *INPUTS[2], max_new_tokens=20, **way) for i in range(2) for way in WAYS.values()]
    said = []
    for uses in (1, 1000):
        monkeypatch.setattr("vlm.choose.PART_USES", uses)
        said.append(tiny.family.generate(features, prompts))
    for one, other in zip(*said, strict=True):
        assert_same(one, other)
