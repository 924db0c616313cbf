"""The meter: FLOPs against closed forms, attribution by component, exclusive phases."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ingot.ledger import meter as module
from ingot.ledger.flops import FlopCount
from ingot.ledger.meter import Meter

WIDTH, HEADS, KV_HEADS, HIDDEN, VOCABULARY, DEPTH, ROWS, LENGTH = 32, 4, 2, 64, 96, 3, 2, 16
TOKENS = ROWS * LENGTH
HEAD_DIM = WIDTH // HEADS
BLOCK_WEIGHTS = WIDTH * WIDTH * 2 + 2 * WIDTH * KV_HEADS * HEAD_DIM + 2 * WIDTH * HIDDEN
# Scores and mixing, over every pair: the matrix products below compute them all.
BLOCK_ATTENTION = 2 * 2 * ROWS * HEADS * LENGTH * LENGTH * HEAD_DIM
ENCODER = DEPTH * 3 * (2 * BLOCK_WEIGHTS * TOKENS + BLOCK_ATTENTION)
HEAD = 3 * 2 * WIDTH * VOCABULARY * TOKENS


class Block(nn.Module):
    """Grouped-query attention written as matrix products, and a feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.output = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.key, self.value = (nn.Linear(WIDTH, KV_HEADS * HEAD_DIM, bias=False) for _ in range(2))
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = (p(x).view(rows, length, -1, HEAD_DIM).transpose(1, 2) for p in (self.query, self.key, self.value))
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        mask = torch.full((length, length), -math.inf).triu(1)
        mixed = ((q @ k.mT / math.sqrt(HEAD_DIM) + mask).softmax(-1) @ v).transpose(1, 2).reshape(rows, length, WIDTH)
        x = x + self.output(mixed)
        return x + self.down(self.up(x).relu())


class Encoder(nn.Module):
    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.blocks, self.checkpointed = nn.ModuleList(Block() for _ in range(DEPTH)), checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return x


class CausalLM(nn.Module):
    """Runs the model inside itself, as objectives do; the head is the embedding's weight."""

    def forward(self, model: Model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = functional.linear(model.encoder(model.embedding(batch["tokens"])), model.embedding.weight)
        return {
            "main": functional.cross_entropy(logits.flatten(0, 1), batch["tokens"].flatten(), reduction="none").view(ROWS, LENGTH).sum(1)
        }


class Model(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.embedding, self.encoder, self.objective = nn.Embedding(VOCABULARY, WIDTH), Encoder(checkpointed), CausalLM()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.objective(self, batch)


def batch() -> dict[str, Tensor]:
    return {"tokens": torch.arange(TOKENS).view(ROWS, LENGTH) % VOCABULARY}


def one_step(model: nn.Module) -> None:
    model(batch())["main"].sum().backward()


def counted(model: nn.Module, run: Callable[[nn.Module], None] = one_step) -> FlopCount:
    with FlopCount(model) as count:
        run(model)
    return count


def test_a_dense_transformer_with_tied_head_and_grouped_queries_costs_its_closed_form_by_component() -> None:
    count = counted(Model())
    assert count.by_component["objective"] == pytest.approx(HEAD, rel=0.01)
    assert count.by_component["encoder"] == pytest.approx(ENCODER, rel=0.01)
    assert count.total == pytest.approx(ENCODER + HEAD, rel=0.01)
    assert count.recomputed == 0


def test_recomputation_is_apart_and_does_not_change_the_figure() -> None:
    plain, checkpointed = counted(Model()), counted(Model(checkpointed=True))
    assert checkpointed.by_component == plain.by_component
    # Early stopping spares the last product of every block.
    last_product = 2 * HIDDEN * WIDTH * TOKENS
    assert checkpointed.recomputed in (ENCODER // 3, ENCODER // 3 - DEPTH * last_product)


def test_second_gradients_are_not_mistaken_for_recomputation() -> None:
    model = Model()

    def penalized(model: nn.Module) -> None:
        loss = model(batch())["main"].sum()
        gradients = torch.autograd.grad(loss, list(model.encoder.parameters()), create_graph=True)
        sum(gradient.square().sum() for gradient in gradients).backward()

    count = counted(model, penalized)
    assert count.recomputed == 0
    assert count.total > 1.9 * (ENCODER + HEAD)


def test_forward_alone_is_a_third() -> None:
    count = counted(Model(), lambda model: model(batch()))
    assert count.total == pytest.approx((ENCODER + HEAD) / 3, rel=0.01)
    with torch.inference_mode():
        assert counted(Model(), lambda model: model(batch())).total == count.total


def test_compiled_blocks_count_the_same() -> None:
    model = Model()
    for block in model.encoder.blocks:
        block.compile(backend="aot_eager")
    one_step(model)
    assert Meter().count(model, lambda: one_step(model)).flops == counted(Model()).total


def test_two_micro_batches_cost_twice_and_the_optimizer_and_hooks_have_their_own_share() -> None:
    meter, model = Meter(), Model()
    square = torch.ones(WIDTH, WIDTH)
    with meter.step(), meter.counting(model, "key"):
        with meter.phase("hooks"), torch.no_grad():
            model(batch())
        with meter.phase("optimizer"):
            with meter.phase("forward_backward"):
                one_step(model)
                one_step(model)
            square @ square
    spent = meter.finish()
    assert set(spent.flops_by_component) == {"encoder", "objective", "optimizer", "hooks"}
    assert spent.flops_by_component["optimizer"] == 2 * WIDTH**3
    assert spent.flops_by_component["hooks"] == pytest.approx((ENCODER + HEAD) / 3, rel=0.01)
    assert spent.flops_by_component["encoder"] == pytest.approx(2 * ENCODER, rel=0.01)
    assert spent.flops == sum(spent.flops_by_component.values())


def test_a_key_is_metered_once_and_taken_every_later_time(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, model, spent = Meter(), Model(), []
    for index in range(3):
        if index == 1:
            monkeypatch.setattr(module, "FlopCount", None)
        with meter.step(), meter.counting(model, ("tokens 2x8", "stage 0")):
            one_step(model)
        spent.append(meter.finish())
    assert spent[0].flops == spent[1].flops == spent[2].flops > 0
    assert [step.metered for step in spent] == [True, False, False]


def test_a_resumed_meter_takes_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, model = Meter(), Meter(), Model()
    with before.step(), before.counting(model, ("a", 1)):
        one_step(model)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    monkeypatch.setattr(module, "FlopCount", None)
    with after.step(), after.counting(model, ("a", 1)):
        pass
    assert vars(before.finish())["flops_by_component"] == after.finish().flops_by_component != {}
    after.load_state_dict({})


def test_a_step_that_fails_is_not_remembered() -> None:
    meter, model = Meter(), Model()
    with pytest.raises(KeyError), meter.step(), meter.counting(model, "key"):
        model({})
    assert not meter.known("key")
    meter.finish()
    with meter.step(), meter.counting(model, "key"):
        one_step(model)
    assert meter.finish().flops == counted(Model()).total


def test_a_block_inside_a_counted_block_is_counted_once() -> None:
    meter, model = Meter(), Model()
    for _ in range(2):
        with meter.step(), meter.counting(model, "outer"), meter.counting(model, "inner"):
            one_step(model)
        assert meter.finish().flops == counted(Model()).total


def test_phases_are_exclusive_and_add_up_to_the_step() -> None:
    meter = Meter()
    with meter.step():
        with meter.phase("data"):
            time.sleep(0.02)
        with meter.phase("optimizer"):
            time.sleep(0.01)
            with meter.phase("forward_backward"):
                time.sleep(0.05)
    with meter.phase("evaluation"):
        time.sleep(0.01)
    spent = meter.finish()
    assert set(spent.phases) == {"data", "optimizer", "forward_backward", "other"}
    assert sum(spent.phases.values()) == pytest.approx(spent.step_seconds, abs=1e-9)
    assert spent.phases["forward_backward"] >= 0.05 > 0.03 > spent.phases["optimizer"] >= 0.01
    assert meter.totals["evaluation"] >= 0.01
    assert meter.finish().phases == {}


def test_steps_cannot_nest() -> None:
    meter = Meter()
    with meter.step(), pytest.raises(RuntimeError, match="inside another"), meter.step():
        pass


def _sharded_figures(rank: int, folder: str, results: str) -> None:
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{folder}", rank=rank, world_size=2)
    model = Model()
    for block in model.encoder.blocks:
        fully_shard(block)
    fully_shard(model)
    meter = Meter()
    with meter.step(), meter.counting(model, "key"):
        one_step(model)
        with meter.phase("optimizer"):
            gradient = model.encoder.blocks[0].up.weight.grad
            gradient @ gradient.mT
    spent = meter.finish()
    Path(results, str(rank)).write_text(
        repr((spent.flops_by_component["encoder"], spent.flops_by_component["objective"], spent.flops_by_component["optimizer"]))
    )
    dist.barrier()
    import os

    os._exit(0)


def test_figures_of_two_sharded_ranks_add_up(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_sharded_figures, (str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    ranks = [eval((tmp_path / str(rank)).read_text()) for rank in range(2)]
    encoder, objective, optimizer = map(sum, zip(*ranks))
    assert encoder == pytest.approx(2 * ENCODER, rel=0.01)
    assert objective == pytest.approx(2 * HEAD, rel=0.01)
    assert optimizer == pytest.approx(2 * HIDDEN * WIDTH * HIDDEN, rel=0.01)
