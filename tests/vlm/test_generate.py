"""One loop for everything: whatever is decoded together, each prompt gets what it would get alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from tasks import TASKS
from tasks.grammar import Choice, Literal, Repeat, Sequence, compile_grammar
from vlm.api import VLM
from vlm.families import Prompt
from vlm.generate import Decoding, Generated, decode_bytes
from vlm.search import Search
from vlm.token_masks import GrammarState, TokenMasks

SIZE = (60, 40)
INPUTS = [
    ("caption", {"detail": "brief"}),
    ("caption", {"detail": "detailed"}),
    ("vqa", {"question": "what colour are the boots?"}),
    ("grounding", {"phrase": "the red bag"}),
    ("detection", {}),
    ("attributes", {"garment": "coat", "box": None, "attributes": ("colour", "pattern", "sleeve")}),
]


def prompt(image: int, task: str, inputs: dict[str, object], *, bound: bool = True, **options: object) -> Prompt:
    options.setdefault("max_new_tokens", 24)
    return Prompt(
        image=image,
        text=TASKS[task].prompt(inputs, SIZE),
        automaton=compile_grammar(TASKS[task].grammar(inputs)) if bound else None,
        decoding=Decoding(**options),  # type: ignore[arg-type]
    )


def run(tiny: VLM, photos: list[Image.Image], prompts: list[Prompt]) -> list[Generated]:
    return tiny.family.generate(tiny.family.encode_images(photos), prompts)


def assert_same(first: Generated, second: Generated) -> None:
    assert first.text == second.text
    assert first.token_ids == second.token_ids
    assert first.truncated == second.truncated
    assert first.logprobs == pytest.approx(second.logprobs, abs=1e-3)
    assert first.confidences == pytest.approx(second.confidences, abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}],
    ids=["greedy", "beam", "sampling"],
)
def test_neighbours_change_nothing(tiny: VLM, photos: list[Image.Image], options: dict[str, object]) -> None:
    """Mixed tasks over images of several shapes, against each prompt by itself."""
    prompts = [prompt(i, task, inputs, **options) for i in range(len(photos)) for task, inputs in INPUTS[: i + 3]]
    together = run(tiny, photos, prompts)
    for wanted, result in zip(prompts, together, strict=True):
        [alone] = run(tiny, [photos[wanted.image]], [replace(wanted, image=0)])
        assert_same(alone, result)


def test_greedy_sampling_and_beams_mix_in_one_batch(tiny: VLM, photos: list[Image.Image]) -> None:
    task, inputs = INPUTS[2]
    kinds = [{}, {"num_beams": 4}, {"temperature": 0.7, "seed": 1}, {"num_beams": 2}]
    prompts = [prompt(0, task, inputs, **options) for options in kinds]
    for wanted, result in zip(prompts, run(tiny, photos[:1], prompts), strict=True):
        assert_same(run(tiny, photos[:1], [wanted])[0], result)


def test_more_prompts_than_a_row_holds(tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt(0, task, inputs, max_new_tokens=6) for task, inputs in INPUTS]
    whole = run(tiny, photos, prompts)
    monkeypatch.setattr("vlm.generate.MAX_PROMPTS", 4)
    for first, second in zip(whole, run(tiny, photos, prompts), strict=True):
        assert_same(first, second)


@pytest.mark.parametrize("bound", [True, False])
def test_greedy_search_is_plain_greedy_search(tiny: VLM, photos: list[Image.Image], bound: bool) -> None:
    """All prompts of all photos at once, with caches, few tokens scored and finished prompts leaving, against the
    whole sequence anew for every token and the whole vocabulary."""
    prompts = [prompt(i, *item, bound=bound, location_window=None) for i in range(len(photos)) for item in INPUTS]
    features = tiny.family.encode_images(photos)
    for wanted, said in zip(prompts, tiny.family.generate(features, prompts), strict=True):
        token_ids, logprobs = plain_greedy(tiny, features, wanted)
        assert said.token_ids == token_ids
        assert said.logprobs == pytest.approx(logprobs, abs=1e-4)


@torch.inference_mode()
def plain_greedy(tiny: VLM, features: Any, wanted: Prompt) -> tuple[tuple[int, ...], list[float]]:
    family: Any = tiny.family
    model, masks = family.model, family.masks
    ids = torch.tensor([family.processor.encode_prompt(wanted.text)])
    memory = model.encode_prompts(
        features.select(torch.tensor([wanted.image])), ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None]
    )
    state = None if wanted.automaton is None else masks.start(wanted.automaton)
    tokens, logprobs = [model.config.bos_token_id], []
    while len(logprobs) < wanted.decoding.max_new_tokens and tokens[-1] != masks.eos_id:
        inputs = torch.tensor([tokens])
        hidden = model.decode(inputs, torch.ones_like(inputs), torch.arange(len(tokens))[None], memory)
        logits = model.logits(hidden[0, -1])
        if state is not None:
            logits = logits.masked_fill(~masks.mask(state), -torch.inf)
        best = logits.log_softmax(-1).max(0)
        tokens.append(int(best.indices))
        logprobs.append(float(best.values))
        if state is not None and tokens[-1] != masks.eos_id:
            state = masks.next_state(state, tokens[-1])
    return tuple(tokens[1:]), logprobs


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}],
    ids=["greedy", "beam", "sampling"],
)
def test_few_tokens_scored_are_as_the_whole_vocabulary_masked(
    tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    prompts = [prompt(i, task, inputs, **options) for i in range(2) for task, inputs in INPUTS]
    few = run(tiny, photos[:2], prompts)
    monkeypatch.setattr("vlm.choose.FEW", -1)
    for first, second in zip(few, run(tiny, photos[:2], prompts), strict=True):
        assert_same(first, second)


def test_finished_prompts_are_decoded_no_further(
    tiny: VLM, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts of two photos, each with a limit of its own, as rows x slots of every step."""
    shapes: list[tuple[int, ...]] = []
    model = tiny.family.model
    real = model.decode_step

    def watching(token_ids: torch.Tensor, state: Any) -> torch.Tensor:
        shapes.append(tuple(token_ids.shape))
        return real(token_ids, state)

    monkeypatch.setattr(model, "decode_step", watching)
    task, inputs = INPUTS[1]
    limits = [(0, 2), (1, 6), (0, 4)]
    run(tiny, photos[:2], [prompt(image, task, inputs, bound=False, max_new_tokens=n) for image, n in limits])
    assert shapes == [(2, 2)] * 2 + [(2, 1)] * 2 + [(1, 1)] * 2


def test_no_prompts(tiny: VLM, photos: list[Image.Image]) -> None:
    assert run(tiny, photos, []) == []


COLOURS = Choice(tuple(map(Literal, ("tan", "teal", "black", "blue", "brown", "not visible"))))
OUTFIT = Sequence((Repeat(COLOURS, Literal(", "), max=2), Literal(" "), Choice((Literal("coat"), Literal("boots")))))
"""Every answer ends well before the token limit, so that greedy and beams can be compared on all of them."""


def test_beam_search_finds_more_probable_texts(tiny: VLM, photos: list[Image.Image]) -> None:
    prompts = [
        replace(prompt(i, task, inputs, max_new_tokens=40), automaton=compile_grammar(OUTFIT))
        for i in range(len(photos))
        for task, inputs in INPUTS
    ]
    greedy = run(tiny, photos, prompts)
    beams = run(tiny, photos, [replace(p, decoding=replace(p.decoding, num_beams=4)) for p in prompts])
    finished = [(g, b) for g, b in zip(greedy, beams, strict=True) if not g.truncated]
    assert len(finished) == len(prompts)
    assert not any(b.truncated for _, b in finished)
    assert all(b.logprob >= g.logprob - 1e-4 for g, b in finished)
    assert sum(b.logprob > g.logprob + 1e-2 for g, b in finished) >= 3


def test_a_beam_as_wide_as_the_grammar_finds_the_best_text(tiny: VLM, photos: list[Image.Image]) -> None:
    """Against the probability of every single text that the grammar allows."""
    word = Choice(tuple(map(Literal, ("tan", "to", "te", "z"))))
    automaton = compile_grammar(Sequence((word, word)))
    family = tiny.family
    masks: TokenMasks = family.masks  # type: ignore[attr-defined]
    every = list(token_sequences(masks, masks.start(automaton)))
    assert len(every) >= 16
    features = family.encode_images(photos[:2])
    found_another = 0
    for image, (task, inputs) in itertools.product((0, 1), INPUTS[:3]):
        wanted = replace(prompt(image, task, inputs, num_beams=len(every)), automaton=automaton)
        [best] = family.generate(features, [wanted])
        [greedy] = family.generate(features, [replace(wanted, decoding=Decoding(max_new_tokens=24))])
        totals = grammar_logprobs(tiny, features, wanted, every)
        index = max(range(len(every)), key=totals.__getitem__)
        assert best.token_ids == every[index]
        assert best.logprob == pytest.approx(totals[index], abs=1e-3)
        assert greedy.logprob == pytest.approx(totals[every.index(greedy.token_ids)], abs=1e-3)
        assert sum(map(math.exp, totals)) == pytest.approx(1.0, abs=1e-3)  # nothing was left out
        found_another += best.token_ids != greedy.token_ids
    assert found_another


def token_sequences(masks: TokenMasks, state: GrammarState, start: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """All token sequences of a finite grammar, each with the end token."""
    for token in masks.mask(state).nonzero()[:, 0].tolist():
        if token == masks.eos_id:
            yield (*start, token)
        else:
            yield from token_sequences(masks, masks.next_state(state, token), (*start, token))


@torch.inference_mode()
def grammar_logprobs(tiny: VLM, features: Any, wanted: Prompt, sequences: list[tuple[int, ...]]) -> list[float]:
    """Log-probability of each sequence, every token among those that the grammar allows there."""
    family: Any = tiny.family
    model, masks = family.model, family.masks
    ids = torch.tensor([family.processor.encode_prompt(wanted.text)])
    memory = model.encode_prompts(
        features.select(torch.tensor([wanted.image])), ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None]
    )
    totals = []
    for sequence in sequences:
        inputs = torch.tensor([[model.config.bos_token_id, *sequence[:-1]]])
        hidden = model.decode(inputs, torch.ones_like(inputs), torch.arange(len(sequence))[None], memory)
        state, total = masks.start(wanted.automaton), 0.0
        for logits, token in zip(model.logits(hidden)[0], sequence, strict=True):
            total += float(logits.masked_fill(~masks.mask(state), -torch.inf).log_softmax(-1)[token])
            state = state if token == masks.eos_id else masks.next_state(state, token)
        totals.append(total)
    return totals


def stepwise(script: list[list[list[tuple[str, float]]]], masks: TokenMasks, decoding: Decoding) -> Search:
    """A search fed with scripted candidates; letters stand for their byte's token, "." for the end."""
    letters = {data: token for token, data in masks._bytes.items()}
    search = Search(None, decoding, masks)
    for step in script:
        assert not search.done
        search.advance(
            [
                [(masks.eos_id if t == "." else letters[t.encode()], math.log(p), math.log(p)) for t, p in beam]
                for beam in step
            ]
        )
    return search


def test_beam_search_by_hand(tiny: VLM) -> None:
    masks = tiny.family.masks  # type: ignore[attr-defined]
    script = [
        [[("a", 0.6), ("b", 0.4)]],
        [[(".", 0.5), ("c", 0.3)], [(".", 0.9), ("c", 0.1)]],
    ]
    search = stepwise(script, masks, Decoding(max_new_tokens=9, num_beams=2))
    best = search.result()  # b. = 0.36 beats a. = 0.30, and neither ac = 0.18 nor bc = 0.04 can catch up
    assert search.done
    assert best.finished
    assert math.exp(best.total) == pytest.approx(0.36)
    greedy = stepwise([[script[0][0]], [script[1][0]]], masks, Decoding(max_new_tokens=9))
    assert math.exp(greedy.result().total) == pytest.approx(0.30)


def test_length_penalty_lets_longer_texts_win(tiny: VLM) -> None:
    masks = tiny.family.masks  # type: ignore[attr-defined]
    script = [[[("a", 0.5), (".", 0.4)]], [[("b", 0.9), (".", 0.1)]], [[(".", 0.8), ("c", 0.2)]]]
    short = stepwise(script, masks, Decoding(max_new_tokens=3, num_beams=2))
    assert len(short.result().token_ids) == 1  # 0.4 against 0.5 * 0.9 * 0.8 = 0.36
    long = stepwise(script, masks, Decoding(max_new_tokens=3, num_beams=2, length_penalty=1.0))
    assert len(long.result().token_ids) == 3


def test_sampling_is_a_function_of_its_seed(tiny: VLM, photos: list[Image.Image]) -> None:
    task, inputs = INPUTS[0]
    prompts = [prompt(0, task, inputs, temperature=1.0, seed=seed) for seed in (1, 1, 2, 3)]
    state = torch.random.get_rng_state()
    first, again, *others = run(tiny, photos[:1], prompts)
    assert torch.equal(state, torch.random.get_rng_state())
    assert_same(first, again)
    assert any(other.text != first.text for other in others)


def test_a_tiny_nucleus_is_greedy(tiny: VLM, photos: list[Image.Image]) -> None:
    task, inputs = INPUTS[0]
    sampled = prompt(0, task, inputs, temperature=1.0, top_p=1e-9, seed=3)
    assert_same(*run(tiny, photos[:1], [prompt(0, task, inputs), sampled]))


def test_samples_follow_the_model(tiny: VLM, photos: list[Image.Image]) -> None:
    """Frequencies of the first token over many seeds against its probability."""
    task, inputs = INPUTS[2]
    draws = run(
        tiny, photos[:1], [prompt(0, task, inputs, temperature=1.0, seed=s, max_new_tokens=1) for s in range(400)]
    )
    counts: dict[tuple[int, ...], int] = {}
    for draw in draws:
        counts[draw.token_ids] = counts.get(draw.token_ids, 0) + 1
    common, count = max(counts.items(), key=lambda item: item[1])
    probability = math.exp(next(d for d in draws if d.token_ids == common).logprobs[0])
    assert count / 400 == pytest.approx(probability, abs=0.1)


def test_the_token_limit_is_flagged(tiny: VLM, photos: list[Image.Image]) -> None:
    for limit in (1, 2, 5):
        for options in ({}, {"num_beams": 3}):
            [cut] = run(tiny, photos[:1], [prompt(0, "detection", {}, max_new_tokens=limit, **options)])
            assert len(cut.token_ids) <= limit
            assert cut.truncated == (tiny.family.masks.eos_id not in cut.token_ids)  # type: ignore[attr-defined]
    assert run(tiny, photos[:1], [prompt(0, "detection", {}, max_new_tokens=2)])[0].truncated


def test_own_probabilities_agree_with_teacher_forcing(tiny: VLM, photos: list[Image.Image]) -> None:
    """What decoding recorded step by step is what one teacher-forced pass gives the same text."""
    features = tiny.family.encode_images(photos)
    for image in range(len(photos)):
        for task, inputs in INPUTS[2:5]:
            wanted = prompt(image, task, inputs, bound=False, max_new_tokens=12)
            [said] = tiny.family.generate(features, [wanted])
            [[forced]] = forced_scores(tiny, features, wanted, said)
            assert said.logprob == pytest.approx(forced, abs=1e-3)


def forced_scores(tiny: VLM, features: object, wanted: Prompt, said: Generated) -> list[list[float]]:
    from vlm.generate import score_candidates

    family = tiny.family
    ids = family.processor.encode_prompt(wanted.text)  # type: ignore[attr-defined]
    return score_candidates(family.model, features, [(wanted.image, ids, [said.token_ids])])


def test_scores_do_not_depend_on_the_other_candidates(tiny: VLM, photos: list[Image.Image]) -> None:
    features = tiny.family.encode_images(photos)
    text = TASKS["vqa"].prompt({"question": "how long are the sleeves?"}, SIZE)
    candidates = ["short", "long", "", "a much longer answer than the others <loc_5>", "short"]
    [together, second] = tiny.family.score(features, [(1, text, candidates), (0, text, ["long"])])
    alone = [tiny.family.score(features, [(1, text, [candidate])])[0][0] for candidate in candidates]
    assert together == pytest.approx(alone, abs=1e-3)
    assert together[0] == pytest.approx(together[-1], abs=1e-4)
    assert second[0] != pytest.approx(together[1], abs=1e-3)  # another image


def test_a_location_counts_its_neighbours_in(tiny: VLM, photos: list[Image.Image]) -> None:
    [boxes] = run(tiny, photos[:1], [prompt(0, "detection", {}, max_new_tokens=40)])
    bins = tiny.family.masks.location_bins[list(boxes.token_ids)].tolist()  # type: ignore[attr-defined]
    assert any(b >= 0 for b in bins)
    for index, exact, windowed in zip(bins, boxes.logprobs, boxes.confidences, strict=True):
        assert exact <= windowed <= 1e-6 if index >= 0 else windowed == exact


def test_spans_cover_the_text(tiny: VLM, photos: list[Image.Image]) -> None:
    for task, inputs in INPUTS:
        [said] = run(tiny, photos[:1], [prompt(0, task, inputs)])
        covered = sorted({c for start, end in said.spans for c in range(start, end)})
        assert covered == list(range(len(said.text)))
        total, count = said.span_score(0, len(said.text))
        content = len(said.token_ids) - (not said.truncated)
        assert count == content
        assert total == pytest.approx(sum(said.confidences[:content]))


def test_characters_over_several_tokens_and_cut_ones() -> None:
    dress = "裙".encode()
    text, spans = decode_bytes([b"a ", dress[:1], dress[1:] + b"b", b""], finished=True)
    assert text == "a 裙b"
    assert spans == ((0, 2), (2, 3), (2, 4), (4, 4))
    text, spans = decode_bytes([b"ab", dress[:2]], finished=False)
    assert text == "ab"
    assert spans == ((0, 2), (2, 2))
    assert decode_bytes([b"\xff", b"a"], finished=True) == ("\ufffda", ((0, 1), (1, 2)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"length_penalty": -1.0}, "length_penalty is -1"),
        ({"num_beams": 2, "temperature": 1.0}, "exclude each other"),
    ],
)
def test_wrong_options(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Decoding(**{"max_new_tokens": 5, **options})  # type: ignore[arg-type]
