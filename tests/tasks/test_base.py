"""People's words never become tokens, and come back letter by letter; the package loads no model library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import TASKS
from tasks.base import Task, escape, unescape

JOINER = "\u2060"
TOKENS = [*(task.token for task in TASKS.values()), "<loc_5>", "<loc_999>", "<img_7>", "<unused_3>", "<eos>", "</s>"]
PIECES = ["<", ">", "/", "_", JOINER, "loc", "loc_5", "eos", "crêpe", "裙子", "👗", " ", *TOKENS]
TEXT = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3))).map("".join))


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_every_text_comes_back(text: str) -> None:
    assert unescape(escape(text)) == text


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_no_token_is_left(text: str) -> None:
    assert not [token for token in TOKENS if token in escape(text)]


@given(TEXT, TEXT)
@settings(deadline=None)
def test_different_texts_stay_different(first: str, second: str) -> None:
    assert (escape(first) == escape(second)) == (first == second)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a tan coat", "a tan coat"),
        ("<loc_5>", f"<{JOINER}loc_5>"),
        ("<caption><eos>", f"<{JOINER}caption><{JOINER}eos>"),
        ("</s>", f"<{JOINER}/s>"),
        (f"<{JOINER}loc_5>", f"<{JOINER}{JOINER}loc_5>"),
        (f"a{JOINER}b", f"a{JOINER}b"),
        ("2 < 3 > 1, <3, <LOC_5>, <loc 5>", "2 < 3 > 1, <3, <LOC_5>, <loc 5>"),
        ("", ""),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_keeps_the_contract(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, Task)
    assert task.name == name
    assert escape(task.token) != task.token  # a word of people cannot open a prompt
    assert task.max_new_tokens > 0


def test_tokens_of_tasks_differ() -> None:
    assert len({task.token for task in TASKS.values()}) == len(TASKS)


def test_tasks_load_no_model_library() -> None:
    names = "torch", "transformers", "tokenizers", "accelerate", "peft", "evaluate", "datasets", "vlm"
    command = f"import sys, tasks; print(*[name for name in {names} if name in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", command], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
