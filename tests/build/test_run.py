"""A whole run from Python: train, evaluate, sample, stop and resume bit-exactly, refuse what is not the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import StopAt, lines, weights

import ingot
from ingot.core.errors import UserError
from ingot.train import loop as loop_module

STAGE = {"stages": {0: {}}}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_learns_and_leaves_a_whole_account(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe({"stages": {0: {"budget": "30 steps"}}}))
    summary = run.train()
    found = lines(run)
    steps = [line for line in found if line["kind"] == "step"]
    assert summary["reason"] == "finished" and [line["step"] for line in steps] == list(range(1, 31))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert steps[-1]["tokens"] == sum(line["step_tokens"] for line in steps)
    assert 0.98 * 30 * 8 * 32 < steps[-1]["tokens"] <= 30 * 8 * 32  # the last row of a source is padded
    assert steps[-1]["flops"] == pytest.approx(sum(line["step_flops"] for line in steps)) and steps[-1]["flops"] > 0
    assert all(abs(sum(line["phases"].values()) - line["step_seconds"]) < 1e-6 for line in steps)
    evaluations = [line for line in found if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [0, 15, 30]
    assert set(evaluations[0]["results"]) == {"left", "right"}
    again = ingot.open_run(run.folder)
    offline = again.evaluate(rows=8)
    for source, result in evaluations[-1]["results"].items():
        assert offline[source]["loss"] == pytest.approx(result["loss"], abs=1e-6)
    assert "".join(again.generate("the ", tokens=8, temperature=0.0)) == "".join(again.generate("the ", tokens=8, temperature=0.0))


def test_the_time_of_all_sittings_is_kept(tiny_recipe: Any) -> None:
    spent = [0.0]
    for reporter in (StopAt(2), None, None):  # stopped, finished, and opened again though nothing is left to do
        run = ingot.build(tiny_recipe({"stages": {0: {"budget": "4 steps"}}}, name="sittings"))
        spent.append(run.train(reporter)["wall_seconds"])
        ends = [line["wall_seconds"] for line in lines(run) if line["kind"] == "end"]
        assert ends == spent[-1:] and spent[-1] > spent[-2]


@pytest.mark.parametrize("optimizer", [{"name": "adamw", "lr": 0.003}, {"name": "muon", "lr": 0.01}])
def test_stopped_anywhere_it_resumes_bit_exactly(tiny_recipe: Any, optimizer: dict[str, Any]) -> None:
    """Mixture, accumulation (8 rows in micro-batches of 3), beyond one epoch."""
    patch = {"micro_rows": 3, "stages": {0: {"budget": "60 steps", "optimizer": optimizer}}, "evaluate": {"every": "100%", "rows": 4}}
    straight = ingot.build(tiny_recipe(patch, name="straight"))
    straight.train()
    assert straight.data_of(0).train.epochs(60 * 8) > 1
    for stop in (1, 17, 40):
        broken = ingot.build(tiny_recipe(patch, name="broken"))
        summary = broken.train(StopAt(stop))
        assert (summary["reason"], summary["step"]) == ("SIGTERM", stop + 1)
    resumed = ingot.build(tiny_recipe(patch, name="broken"))
    resumed.train()
    assert same(weights(straight), weights(resumed))
    left, right = (
        [(line["step"], line["loss"], line["lr"], line["flops"]) for line in lines(run) if line["kind"] == "step"]
        for run in (straight, resumed)
    )
    assert left == right


def test_accumulation_changes_nothing_but_rounding(tiny_recipe: Any) -> None:
    found = {}
    for micro in (8, 4, 3, 1):
        run = ingot.build(
            tiny_recipe(
                {"precision": "fp64", "micro_rows": micro, "stages": {0: {"budget": "5 steps", "optimizer": {"name": "sgd", "lr": 0.1}}}},
                name=f"micro{micro}",
            )
        )
        run.train()
        found[micro] = weights(run)
    for micro in (4, 3, 1):
        for name, value in found[8].items():
            assert (value - found[micro][name]).norm() <= 1e-12 * value.norm(), name


def test_another_recipe_is_refused_with_the_difference(tiny_recipe: Any) -> None:
    ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}})).train()
    with pytest.raises(UserError, match=r"stages.0.optimizer.lr: 0.003 -> 0.5"):
        ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps", "optimizer": {"lr": 0.5}}}}))


def test_a_finished_run_trains_no_further(tiny_recipe: Any) -> None:
    run = ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}}))
    found = run.train()["evaluation"]
    before = weights(run)
    again = ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}}))
    summary = again.train()
    assert summary["step"] == 2 and summary["evaluation"] == found != {}
    assert same(before, weights(again))


@pytest.mark.parametrize(
    ("budget", "steps"), [("512 tokens", 2), ("600 tokens", 2), ("700 tokens", 3), ("20 rows", 2), ("1 tokens", 1), ("3 steps", 3)]
)
def test_budgets_end_at_the_nearest_step(tiny_recipe: Any, budget: str, steps: int) -> None:
    run = ingot.build(tiny_recipe({"stages": {0: {"budget": budget}}, "evaluate": {"rows": 1}}))
    assert run.train()["step"] == steps


def test_a_budget_in_flops_is_spent(tiny_recipe: Any) -> None:
    first = ingot.build(tiny_recipe({"stages": {0: {"budget": "4 steps"}}}, name="steps")).train()
    budget = {"budget": f"{first['flops']:.0f} flops", "schedule": {"lr": {"name": "cosine", "warmup": "2 steps"}}}
    second = ingot.build(tiny_recipe({"stages": {0: budget}}, name="flops")).train()
    assert second["step"] == 4


def test_stages_follow_each_other_with_their_own_objective_and_optimizer(tiny_recipe: Any) -> None:
    stages = [
        {"budget": "3 steps", "batch": "8 rows", "optimizer": {"name": "adamw", "lr": 0.003}},
        {
            "budget": "4 steps",
            "batch": "4 rows",
            "optimizer": {"name": "lion", "lr": 0.0003},
            "objective": {"name": "causal_lm", "z_loss": 1e-3},
        },
        {"budget": "2 steps", "batch": "4 rows", "optimizer": {"name": "lion", "lr": 0.0001}},
    ]
    straight = ingot.build(tiny_recipe({"stages": stages}, name="straight"))
    assert straight.train()["step"] == 9
    for stop in (2, 4, 8):
        ingot.build(tiny_recipe({"stages": stages}, name="broken")).train(StopAt(stop))
    resumed = ingot.build(tiny_recipe({"stages": stages}, name="broken"))
    assert resumed.train()["step"] == 9
    assert same(weights(straight), weights(resumed))
    assert {line["lr"] for line in lines(resumed) if line["kind"] == "step" and line["stage"] == 2} == {0.0001}


def test_any_knob_can_be_scheduled(tiny_recipe: Any) -> None:
    linear = {"name": "linear", "warmup": "0%", "final": 0.5}
    run = ingot.build(
        tiny_recipe(
            {"stages": {0: {"budget": "96 rows", "schedule": {"batch": linear, "weight_decay": linear, "hooks.clip.max_norm": linear}}}}
        )
    )
    run.train()
    sizes = [line["batch_rows"] for line in lines(run) if line["kind"] == "step"]
    assert sizes[0] == 8 and sizes[-1] in (4, 5) and sizes == sorted(sizes, reverse=True)


def test_starting_from_weights_keeps_the_lineage(tiny_recipe: Any, tmp_path: Path) -> None:
    first = ingot.build(tiny_recipe({"stages": {0: {"budget": "2 steps"}}}, name="first"))
    first.train()
    second = ingot.build(tiny_recipe({"stages": {0: {"budget": "1 steps"}}}, name="second"), start_from=str(first.folder))
    assert same(weights(first), weights(second))
    assert second.parents[0]["step"] == 2
    with pytest.raises(UserError, match="nothing to start from"):
        _ = ingot.build(tiny_recipe(name="third"), start_from=str(tmp_path / "nowhere")).model


def test_what_belongs_to_the_machine_may_change_on_resume(tiny_recipe: Any) -> None:
    ingot.build(tiny_recipe({"stages": {0: {"budget": "6 steps"}}})).train(StopAt(2))
    again = ingot.build(tiny_recipe({"stages": {0: {"budget": "6 steps"}}, "micro_rows": 2, "checkpoint": {"keep_last": 1}}))
    assert again.train()["step"] == 6


def test_what_a_resumed_run_is_told_goes_before_what_was_chosen_at_its_start(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = {"stages": {0: {"budget": "6 steps"}}}
    ingot.build(tiny_recipe(budget)).train(StopAt(2))
    again = ingot.build(tiny_recipe(budget, {"micro_rows": "auto"}))  # 4 at first
    again.train(StopAt(4))
    assert again.choices["micro_rows"] == {"0": 8}
    asked: list[Any] = []
    last = ingot.build(tiny_recipe(budget, {"micro_rows": "auto", "compile": True, "memory": "2 GB"}))
    fitted = {"micro_rows": 2, "checkpointing": "none", "fused_backward": False}
    monkeypatch.setattr("ingot.build.program.fitting", lambda run, index, rows: fitted)
    monkeypatch.setattr("ingot.build.session.choose_compile", lambda run, state, wanted: (False, str(asked.append(wanted))))
    last.train()
    assert asked == [True] and last.choices["micro_rows"] == {"0": 2} and last.choices["memory"] == 2e9


def test_an_inner_optimizer_keeps_its_own_learning_rate_in_every_stage(tiny_recipe: Any) -> None:
    stages = [
        {"budget": "2 steps", "batch": "4 rows", "optimizer": {"name": "muon", "lr": lr, "rest": {"name": "adamw", "lr": inner}}}
        for lr, inner in ((0.02, 0.003), (0.01, 0.001))
    ]
    run = ingot.build(tiny_recipe({"stages": stages}))
    state = run.state()
    for index, (lr, inner) in enumerate(((0.02, 0.003), (0.01, 0.001))):
        state.progress.stage, state.progress.entering = index, True
        run.program.enter(state)
        bases = {
            role: {group["base_lr"] for group in state.optimizer.param_groups if any(axes.role == role for axes in group["axes"])}
            for role in ("matrix", "embedding", "scale")
        }
        assert bases == {"matrix": {lr}, "embedding": {inner}, "scale": {inner}}


def test_what_is_written_keeps_the_space_before_it(tiny_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SentencePiece's decoder drops the space that begins a text; what continues a prompt begins none."""
    import tokenizers

    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"\u2581hello": 0, "\u2581world": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>")
    )
    inner.pre_tokenizer, inner.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    inner.add_special_tokens(["</s>", "<unk>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    run = ingot.build(tiny_recipe({"data": {"tokenizer": {"name": "pretrained", "path": str(tmp_path / "tokenizer.json")}}}))
    monkeypatch.setattr("ingot.model.write.write", lambda model, ids, manner: iter([1, 0]))
    assert list(run.generate("hello", tokens=2)) == [" world", " hello"]


@pytest.mark.parametrize("hooks", [[], [{"name": "online_selection", "keep": 0.5}]], ids=["plain", "with rows that are only read"])
def test_a_scheduled_batch_pays_for_its_own_rows_alone(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch, hooks: list[Any]) -> None:
    """A micro-batch is no larger than the batch; the rows are read in the same order whatever its size."""
    stage = {"budget": "4 steps", "schedule": {"batch": {"name": "constant", "warmup": "100%"}}, "hooks": hooks}
    met: dict[int, list[list[int]]] = {}
    real = loop_module.step

    def step(state: Any, window: Any, *given: Any, **more: Any) -> Any:
        met[micro].append([row for piece in window for row in piece["rows"].tolist()])
        return real(state, window, *given, **more)

    monkeypatch.setattr(loop_module, "step", step)
    flops = {}
    for micro in (8, 1):
        met[micro] = []
        run = ingot.build(tiny_recipe({"stages": {0: stage}, "micro_rows": micro}, name=f"micro{micro}"))
        run.train()
        flops[micro] = [line["step_flops"] for line in lines(run, "step")]
    assert met[8] == met[1] and [len(rows) for rows in met[8]] == [1, 3, 5, 7]
    assert flops[8] == flops[1]


def test_a_seed_may_be_a_time_of_day(tiny_recipe: Any) -> None:
    recipe = tiny_recipe({"seed": 20240101120000, "stages": {0: {"budget": "1 steps"}}})
    assert ingot.build(recipe).train()["step"] == 1
