"""A value's tokens have its weight, all others 1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import TASKS
from tasks.ontology import default_ontology
from tasks.results import Attributes, Value
from vlm.data.token_weights import token_factors
from vlm.processor import OneLookProcessor

VALUES = {name: list(words) for name, words in default_ontology().values.items()}


@pytest.fixture(scope="module")
def processor() -> OneLookProcessor:
    return OneLookProcessor.from_pretrained("vlm/embedded")


@given(data=st.data())
def test_each_value_has_its_weight(processor: OneLookProcessor, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4, unique=True))
    ontology = default_ontology()
    chosen = {
        name: data.draw(
            st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=ontology.num_values.get(name, 1), unique=True)
        )
        for name in names
    }
    label = Attributes({name: Value(tuple(words)) for name, words in chosen.items()})
    # Numbers of their own, so that no value is taken for another.
    weights = {pair: 2.0 + index for index, pair in enumerate((name, word) for name in chosen for word in chosen[name])}
    text = TASKS["attributes"].target(label, (10, 10))
    ids = processor.encode_target(text)
    factors = token_factors(label, text, ids, processor.tokenizer, weights)
    assert len(factors) == len(ids)
    found = {}
    for token, factor in zip(ids, factors, strict=True):
        if factor != 1.0:
            found[factor] = found.get(factor, "") + processor.tokenizer.decode([token])
    assert {factor: text.strip() for factor, text in found.items()} == {
        weights[name, word]: word for name in chosen for word in chosen[name]
    }


def test_special_tokens_before_and_after_count_once(processor: OneLookProcessor) -> None:
    label = Attributes({"pattern": Value(("lace",))})
    text = TASKS["attributes"].target(label, (10, 10))
    plain = token_factors(label, text, processor.encode_target(text), processor.tokenizer, {("pattern", "lace"): 5.0})
    begun = [processor.config.bos_token_id, *processor.encode_target(text)]
    assert token_factors(label, text, begun, processor.tokenizer, {("pattern", "lace"): 5.0}) == [1.0, *plain]
    assert max(plain) == 5.0
    assert plain[-1] == 1.0, "the end is no value"
    assert set(token_factors(label, text, begun, processor.tokenizer, {})) == {1.0}


def test_tokens_of_another_text_are_refused(processor: OneLookProcessor) -> None:
    label = Attributes({"pattern": Value(("lace",))})
    with pytest.raises(ValueError, match="do not hold those of 'pattern: lace'"):
        token_factors(label, "pattern: lace", processor.encode_target("pattern: solid"), processor.tokenizer, {})
