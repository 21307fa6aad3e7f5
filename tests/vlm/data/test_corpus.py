"""What the tokenizer learns from."""

from __future__ import annotations

from pathlib import Path

from tasks.base import Record, TextLabel, escape
from vlm.data.corpus import corpus
from vlm.data.records import read_records
from vlm.tokenizer import train_tokenizer


def test_prompts_and_targets_of_every_task(garments: Path) -> None:
    records = list(read_records(garments))
    texts = list(corpus(records[:1]))
    assert "brief" in texts
    assert "A red coat and red trousers." in texts
    assert "what is worn?" in texts and "a red coat" in texts
    assert "coat;trousers" in texts, "detection, without its boxes"
    assert any("colour: red" in text for text in texts)
    assert len(list(corpus(records))) > 10 * len(texts)


def test_no_token_that_is_there_anyway(garments: Path) -> None:
    texts = list(corpus(list(read_records(garments))))
    assert [text for text in texts if "<" in text] == []


def test_what_people_write_stays() -> None:
    written = "a <loc_5> print, <3, crêpe 裙子"
    record = Record(id="1", image="1", image_size=(2, 2), captions=(TextLabel(text=written),))
    assert escape(written) in list(corpus([record]))


def test_the_same_whatever_comes_before(garments: Path) -> None:
    records = list(read_records(garments))
    alone = list(corpus(records[3:4]))
    together = list(corpus(records))
    start = len(list(corpus(records[:3])))
    assert together[start : start + len(alone)] == alone
    assert list(corpus(records, seed=1)) != together


def test_a_tokenizer_learns_its_words(garments: Path) -> None:
    tokenizer = train_tokenizer(corpus(list(read_records(garments))), vocab_size=2560)
    for word in ("trousers", "coat", "colour"):
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1
