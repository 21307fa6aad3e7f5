from __future__ import annotations

import math

import pytest

from tasks.metrics.cider_d import scores, tokenise

CAPTIONS = (
    "a woman in a red coat and black boots",
    "he wears blue jeans with white sneakers",
    "the tan trench coat hangs open over a striped dress",
)


def test_saying_the_reference_gives_ten() -> None:
    assert scores(CAPTIONS, [[text] for text in CAPTIONS]) == pytest.approx([10.0] * 3)


def test_case_and_punctuation_do_not_matter() -> None:
    assert scores(["He wears, blue JEANS with white sneakers!"], [["x"]]) == [0.0]
    shouted = [text.upper() + "." for text in CAPTIONS]
    assert scores(shouted, [[text] for text in CAPTIONS]) == pytest.approx([10.0] * 3)


def test_nothing_in_common_and_unparseable_give_zero() -> None:
    references = [[text] for text in CAPTIONS]
    assert scores(["quite other words here", None, ""], references) == [0.0, 0.0, 0.0]


def test_by_hand() -> None:
    # Two images, one reference each. "coat" is in both references: log(2 / 2) = 0, it weighs nothing.
    # All other n-grams are in one: weight log 2, which cancels in the cosines.
    references = [["red coat"], ["blue coat"]]
    # Unigrams: red alone, cosine 1. Bigrams: "red coat" is the only one, cosine 1. No longer ones: 0.
    assert scores(["red coat", "blue coat"], references) == pytest.approx([10 * 2 / 4] * 2)
    # "red red": the vector (2, 0) is clipped to (1, 0): 1 * 1 / (2 * 1) = 1/2; the bigram "red red" is not there.
    # Both captions have one pair of words: no length penalty.
    assert scores(["red red", ""], references)[0] == pytest.approx(10 * (1 / 2) / 4)
    # "red": cosine 1 in unigrams, and one pair of words less: exp(-1 / 72).
    assert scores(["red", ""], references)[0] == pytest.approx(10 * (1 / 4) * math.exp(-1 / 72))


def test_two_references_are_averaged() -> None:
    references = [["red coat", "green hat"], ["blue coat"]]
    assert scores(["red coat", ""], references)[0] == pytest.approx(10 * (2 / 4) / 2)


def test_repeating_does_not_pay() -> None:
    references = [[text] for text in CAPTIONS]
    repeated = [text + " " + text for text in CAPTIONS]
    assert max(scores(repeated, references)) < 5


def test_tokenise() -> None:
    assert tokenise("A t-shirt, crêpe & “V-neck” – it's 2!") == ["a", "t-shirt", "crêpe", "v-neck", "it's", "2"]
