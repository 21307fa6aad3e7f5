"""Any text survives; every task, location and image code is one token at a known place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks import TASKS
from tasks.base import escape, unescape
from vlm.model import OneLookModel
from vlm.processor import OneLookProcessor
from vlm.tokenizer import BOS, EOS, NUM_IMAGE_CODES, PAD, SPECIAL_TOKENS, load_tokenizer, train_tokenizer


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_any_question_survives_the_round_trip(tiny_processor: OneLookProcessor, text: str) -> None:
    said = escape(text)
    assert unescape(tiny_processor.decode(tiny_processor.encode_prompt(said))) == unescape(said)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=60))
@example(text="👩🏽‍🦰 in a ʻañ – 裙子, e\u0301 é \u00a0\u2028\ufeff\x00\x7f\U0010ffff")
@example(text="  a  b .\r\n\t , 's don 't ! ")
def test_any_text_survives_the_round_trip(tiny_processor: OneLookProcessor, text: str) -> None:
    """To the letter: no normalisation, no tidying of spaces; the ids are those of text, and never unknown."""
    ids = tiny_processor.encode_prompt(text)
    assert tiny_processor.decode(ids) == text
    assert all(len(SPECIAL_TOKENS) <= i < tiny_processor.config.first_location_id for i in ids)
    assert tiny_processor.decode(tiny_processor.encode_target(text)) == text


@pytest.mark.parametrize("text", ["crêpe 裙子 👗", "a  b\n\tc ", "what is <loc_5>?", "<caption>", "�"])
def test_known_trouble(tiny_processor: OneLookProcessor, text: str) -> None:
    assert unescape(tiny_processor.decode(tiny_processor.encode_prompt(escape(text)))) == text


def test_special_tokens_are_one_token_each(tiny_processor: OneLookProcessor, tiny_model: OneLookModel) -> None:
    config, tokenizer = tiny_model.config, tiny_processor.tokenizer
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.convert_tokens_to_ids([f"<loc_{i}>" for i in range(1000)]) == list(
        range(config.first_location_id, config.first_location_id + 1000)
    )
    codes = tokenizer.convert_tokens_to_ids([f"<img_{i}>" for i in range(NUM_IMAGE_CODES)])
    assert codes == list(range(config.vocab_size - NUM_IMAGE_CODES, config.vocab_size))
    for task in TASKS.values():
        assert len(tiny_processor.encode_prompt(task.token)) == 1
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        config.pad_token_id,
        config.bos_token_id,
        config.eos_token_id,
    )
    assert tiny_processor.decode(tiny_processor.encode_target("coat<loc_0><loc_999>")) == "coat<loc_0><loc_999>"


def test_a_location_is_one_token_wherever_it_stands(tiny_processor: OneLookProcessor) -> None:
    first = tiny_processor.config.first_location_id
    every = "".join(f"<loc_{i}>" for i in range(1000))
    assert tiny_processor.encode_prompt(every) == list(range(first, first + 1000))
    assert tiny_processor.decode(range(first, first + 1000)) == every
    coat, space_coat = (tiny_processor.encode_prompt(text) for text in ("coat", " coat"))
    assert tiny_processor.encode_prompt("coat<loc_7> coat<loc_70>coat") == [
        *coat,
        first + 7,
        *space_coat,
        first + 70,
        *coat,
    ]
    # There is no thousand-and-first bin.
    assert not set(tiny_processor.encode_prompt("<loc_1000>")) & set(range(first, first + 1000))


def test_image_codes_are_kept_for_later(tiny_processor: OneLookProcessor) -> None:
    """Each is one token, and text never uses them."""
    codes = range(tiny_processor.config.vocab_size - NUM_IMAGE_CODES, tiny_processor.config.vocab_size)
    assert tiny_processor.encode_prompt("<img_0><img_1023>") == [codes[0], codes[-1]]
    assert not set(tiny_processor.encode_prompt("an image img_5 of 1023")) & set(codes)


def test_learnt_words_are_short(tiny_processor: OneLookProcessor) -> None:
    """Merges come from the texts: what was seen takes few tokens, what was not takes bytes."""
    assert len(tiny_processor.encode_prompt(" trousers")) < len(" trousers") / 2
    assert len(tiny_processor.encode_prompt("ξζ")) == 4


def test_saved_and_loaded_it_is_the_same(tiny_processor: OneLookProcessor, tmp_path: Path) -> None:
    tiny_processor.tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == tiny_processor.tokenizer.get_vocab()
    assert (loaded.pad_token, loaded.bos_token, loaded.eos_token) == (PAD, BOS, EOS)
    for text in ("<caption>brief", "a  tan 't coat ,<loc_5> <img_3>crêpe 裙子 "):
        ids = loaded.encode(text, add_special_tokens=False)
        assert ids == tiny_processor.encode_prompt(text)
        assert loaded.decode(ids) == text


def test_a_small_corpus_keeps_the_layout() -> None:
    """Where merges run out, unused ids keep locations and codes in their places, whatever was trained on."""
    places = []
    for texts in (["a"], ["what colour are the boots? " * 3, "a tan coat, a red bag"], []):
        tokenizer = train_tokenizer(texts, vocab_size=2400)
        assert len(tokenizer) == 2400
        places.append(tokenizer.convert_tokens_to_ids(["<pad>", "<caption>", "<loc_0>", "<loc_999>", "<img_0>"]))
    first = 2400 - NUM_IMAGE_CODES - 1000
    assert places == [[0, places[0][1], first, first + 999, first + 1000]] * 3


def test_words_of_people_never_become_special(tiny_processor: OneLookProcessor) -> None:
    special = set(tiny_processor.tokenizer.get_added_vocab().values())
    assert not special & set(tiny_processor.encode_prompt(escape("<loc_5> <caption> <eos> <pad>")))


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="need at least 2288"):
        train_tokenizer(["a"], vocab_size=2287)
    assert len(train_tokenizer(["a"], vocab_size=2288)) == 2288


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_no_tokenizer_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / name))} has no tokenizer\.json.*vlm train"):
        load_tokenizer(tmp_path / name)
