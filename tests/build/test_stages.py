"""Stages that read other data than the one before: where each reads on, in which ids, and what its evaluations are of."""

from __future__ import annotations

from typing import Any

import pytest
from _runs import StopAt, lines, weights

import ingot
from ingot.build.check import check
from ingot.build.session import choose
from ingot.core.errors import UserError

STAGE = {"budget": "3 steps", "batch": "4 rows", "optimizer": {"name": "adamw", "lr": 0.003}}
LEFT = {"train": {"name": "text_files", "paths": ["left"]}, "holdout": 0.2, "tokenizer": "bytes", "sequence": 32}


def first_rows(run: Any) -> list[tuple[int, int]]:
    return [(line["stage"], line["first_row"]) for line in lines(run, "step")]


def test_a_stage_reads_on_where_the_last_one_on_its_data_stopped(tiny_recipe: Any) -> None:
    """Also where another lay between, and where the same data are written out again."""
    stages = [STAGE, STAGE | {"data": LEFT}, STAGE, STAGE | {"data": dict(LEFT)}]
    straight = ingot.build(tiny_recipe({"stages": stages}, name="straight"))
    straight.train()
    assert first_rows(straight) == [(stage, row + step) for stage, row in enumerate((0, 0, 12, 12)) for step in (0, 4, 8)]
    for stop in (4, 7, 10):
        ingot.build(tiny_recipe({"stages": stages}, name="broken")).train(StopAt(stop))
    broken = ingot.build(tiny_recipe({"stages": stages}, name="broken"))
    broken.train()
    assert first_rows(broken) == first_rows(straight)
    assert all(value.equal(weights(broken)[name]) for name, value in weights(straight).items())


def test_a_first_stage_on_other_texts_has_the_tokenizer_of_the_run(tiny_recipe: Any) -> None:
    other = {name: value for name, value in LEFT.items() if name != "tokenizer"}
    run = ingot.build(tiny_recipe({"data": {"tokenizer": {"name": "bpe", "vocabulary": 300}}, "stages": [STAGE | {"data": other}, STAGE]}))
    assert run.data_of(0).tokenizer is run.tokenizer is run.data_of(1).tokenizer
    assert run.vocabulary == 300


def test_ids_of_another_tokenizer_are_refused(tiny_recipe: Any) -> None:
    other = LEFT | {"tokenizer": {"name": "bpe", "vocabulary": 300}}
    with pytest.raises(UserError, match=r"stages\.1\.data\.tokenizer: a model reads the ids of one tokenizer"):
        ingot.build(tiny_recipe({"stages": [STAGE, STAGE | {"data": other}]}))


def test_held_out_rows_are_scored_as_rows_of_their_own_stage(tiny_recipe: Any) -> None:
    """The first stage reads the second source alone: to ``by_source``, in the next one, it is the second all the same."""
    alone = LEFT | {"train": {"name": "mixture", "sources": {"right": {"name": "text_files", "paths": ["right"]}}}}
    apart = {"name": "by_source", "objectives": {"left": {"name": "masked_lm", "rate": 0.1}, "right": "causal_lm"}}
    run = ingot.build(tiny_recipe({"stages": [STAGE | {"data": alone}, STAGE | {"objective": apart}]}))
    found = run.train()["evaluation"]["right"]
    assert found["units"] > 20 * found["rows"]  # of 32 tokens a row; a tenth of them, were they masked


def test_what_a_stage_cannot_evaluate_is_left_out_there(tiny_recipe: Any) -> None:
    """Prompts where the objective writes no text, evaluators of what the data do not hold; said once."""
    labeled = LEFT | {"train": {"name": "synthetic_text", "count": 40}, "holdout": 0.3}
    settings = {"prompts": ["the "], "prompt_tokens": 3, "also": [{"name": "knn"}], "every": "50%"}
    stages = [STAGE, STAGE | {"objective": {"name": "masked_lm"}, "data": labeled}]
    run = ingot.build(tiny_recipe({"evaluate": settings, "stages": stages}))
    run.train()
    assert {line["step"] for line in lines(run, "sample")} == {0, 2, 3}
    found = {(line["step"], "knn.accuracy" in result) for line in lines(run, "evaluation") for result in line["results"].values()}
    assert {step for step, there in found if there} == {3, 5, 6}
    said = [line["message"] for line in lines(run, "event") if line["name"] == "notice"]
    assert len(said) == 2 and "knn reads label" in said[0] and "MaskedLM writes no text" in said[1]


def test_what_ranks_cannot_do_in_a_later_stage_is_refused_at_the_start(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = STAGE | {"fused_backward": True}
    run = ingot.build(tiny_recipe({"stages": [STAGE, fused], "anomaly": {"policy": "log"}}))
    monkeypatch.setattr(run.layout, "ranks", 2)
    with pytest.raises(UserError, match="gradients cross 2 ranks"):
        choose(run, run.state(), resumed=False)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (["left", "right"], ["right", "left"], "the sources' names in their order, right, left; there are left, right"),
        (["left", "right"], ["right"], "the sources' names in their order, right; there are left, right"),
        (["right"], ["left", "right"], ""),
    ],
    ids=["another order", "one of them", "only there a mixture"],
)
def test_an_objective_is_asked_about_the_data_that_it_is_trained_on(tiny_recipe: Any, first: Any, second: Any, words: str) -> None:
    def texts(names: list[str]) -> dict[str, Any]:
        return LEFT | {"train": {"name": "mixture", "sources": {one: {"name": "text_files", "paths": [one]} for one in names}}}

    apart = {"name": "by_source", "objectives": {"left": "masked_lm", "right": "causal_lm"}}
    recipe = tiny_recipe({"stages": [STAGE | ({} if words else {"objective": "causal_lm"}), STAGE | {"data": texts(second)}]})
    recipe.tree["data"] = texts(first)
    (recipe.tree["model"] if words else recipe.tree["stages"][1])["objective"] = apart
    _, problems = check(recipe)
    assert [words in str(one) for one in problems] == ([True] if words else [])


def test_what_is_wrong_elsewhere_in_the_recipe_keeps_no_objective_from_being_asked(tiny_recipe: Any) -> None:
    recipe = tiny_recipe({"name": "x" * 300, "stages": [STAGE, STAGE | {"data": LEFT | {"sequence": "long"}, "batch": 3}]})
    with pytest.raises(UserError) as raised:
        ingot.build(recipe)
    assert {one.where for one in raised.value.problems} == {"stages.1.data.sequence", "stages.1.batch", "name"}
