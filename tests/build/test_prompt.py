"""What an empty prompt is: nothing where nothing was trained to follow it, and the end of a text where texts did."""

from __future__ import annotations

from typing import Any

import pytest

import ingot
from ingot.build.prompt import prompt_ids
from ingot.core.errors import UserError


def test_an_empty_prompt_wants_something_that_begins_documents(tiny_recipe: Any) -> None:
    for index, pack in enumerate(("document", "stream", "best_fit")):
        run = ingot.build(tiny_recipe({"data": {"pack": pack}}, name=f"a{index}"))
        with pytest.raises(UserError, match="an empty prompt begins nothing"):
            next(run.generate("", tokens=2))
        assert prompt_ids(run, "ab") == [97, 98]
        run.parents = [{"kind": "checkpoint", "parents": [{"kind": "hugging_face", "path": "gpt2"}]}]
        assert prompt_ids(run, "") == [run.tokenizer.end]
    run = ingot.build(tiny_recipe({"data": {"pack": {"name": "stream", "attend": "row"}}}, name="b"))
    assert prompt_ids(run, "") == [run.tokenizer.end]
    run.tokenizer.begin = 7
    assert prompt_ids(run, "") == [7] and prompt_ids(run, "ab") == [7, 97, 98]


def test_who_writes_nothing_says_so(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe({"model": {"objective": "masked_lm"}}))
    with pytest.raises(UserError, match="writes no text"):
        next(run.generate("", tokens=2))
