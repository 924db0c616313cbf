"""A small model with an optimizer, to grow: what the suites on transforms share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from ingot.build.graph import build_model
from ingot.build.groups import parameter_groups
from ingot.build.grow import graph_after, grown, put_state, put_weights, snapshot_of, target_of
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec
from ingot.train.state import State

VOCABULARY, SEQUENCE = 24, 12
PLAIN: dict[str, Any] = {
    "width": 16,
    "embedding": "token",
    "objective": "causal_lm",
    "encoder": {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 2}, "feedforward": "relu2", "norm": "rms"},
}
# Every kind of axis, bias and norm that growth has to carry.
MAKES: dict[str, dict[str, Any]] = {
    "tied rms": PLAIN,
    "grouped heads, biases, untied": {
        "width": 16,
        "embedding": {"name": "token", "position": "learned", "norm": "layer", "types": 2},
        "objective": {"name": "causal_lm", "tied": False, "bias": True, "softcap": 20.0},
        "encoder": {
            "name": "transformer",
            "depth": 2,
            "norm": "layer",
            "feedforward": {"name": "swiglu", "bias": True, "hidden": 20},
            "mixer": {"name": "attention", "heads": 4, "kv_heads": 2, "head_dim": 6, "qk_norm": "rms", "bias": True},
        },
    },
    "hybrid": {**PLAIN, "encoder": {**PLAIN["encoder"], "block": "hybrid", "norm": "layer"}},
    "post": {**PLAIN, "encoder": {**PLAIN["encoder"], "block": "post", "norm": "layer", "feedforward": "gelu"}},
    "relative positions": {**PLAIN, "encoder": {**PLAIN["encoder"], "mixer": {"name": "attention", "heads": 2, "position": "relative"}}},
    "masked": {**PLAIN, "objective": {"name": "masked_lm", "rate": 0.4, "transform": "layer", "bias": True}},
    "width transfer": {**PLAIN, "init": {"name": "mup", "base_width": 8}},
    "width transfer before a layer": {**PLAIN, "init": {"name": "mup", "base_width": 8}, "objective": "replaced_token"},
    "narrow table": {
        **PLAIN,
        "embedding": {"name": "token", "inner": 8, "position": "learned", "norm": "layer"},
        "objective": {"name": "masked_lm", "rate": 0.4, "transform": "layer", "bias": True},
    },
}


class Growth:
    """As much of a Run as growth asks for, around one model in fp64."""

    def __init__(self, tree: dict[str, Any], optimizer: dict[str, Any] | None = None, seed: int = 0):
        self.graph: Graph = resolve(Recipe(tree), Graph)
        self.objective_spec = self.graph.objective
        self.initializer = self.graph.init.build()
        self.dtype, self.device, self.choices = torch.float64, torch.device("cpu"), {}
        self.section = SimpleNamespace(seed=seed)
        self.layout = spec("parallel.layout", "single").build()
        self.optimizer_spec = spec("optim", **(optimizer or {"name": "adamw", "lr": 0.003}))
        model = self.plain_model()
        self.initializer.apply(model, seed=seed)
        draw = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():  # so that no gain of 1 and no bias of 0 hides a mistake
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.1)
        self.state = State(model=model, optimizer=self.optimizer_of(model))
        self.model = model

    def plain_model(self, graph: Graph | None = None) -> Any:
        made = build_model(
            graph or self.graph,
            vocabulary=VOCABULARY,
            sequence=SEQUENCE,
            specials={"mask": 2, "end": 1},
            dtype=torch.float64,
            objective=self.objective_spec,
        )
        return made.double()

    def optimizer_of(self, model: Any) -> Any:
        return self.optimizer_spec.build(params=parameter_groups(model, self.initializer))

    def grow(self, *transforms: Any, keep_state: bool = True) -> list[dict[str, Any]]:
        """Apply transforms (Specs or names) to the model and the optimizer; their lines."""
        specs = [item if hasattr(item, "slot") else spec("transform", item) for item in transforms]
        graph, model, snapshot, lines = grown(self, snapshot_of(self, self.state, optimizer=keep_state), specs, self.batches)
        self.graph = graph
        self.model = self.state.model = put_weights(self, model, snapshot)
        self.state.optimizer = self.optimizer_of(self.model)
        notes = put_state(self, self.state, snapshot)
        lines[-1]["notes"] += notes
        return lines

    def snapshot(self) -> Any:
        return snapshot_of(self, self.state)

    def target(self, transform: Any) -> Any:
        graph = graph_after(self.graph, [transform])
        model = self.plain_model(graph)
        self.initializer.apply(model, seed=0)
        return target_of(self, graph, model, self.batches)

    # -- a problem to learn ---------------------------------------------------------------------------------------------------

    def batch(self, start: int = 0, rows: int = 8) -> dict[str, torch.Tensor]:
        numbers = torch.arange(start, start + rows)
        column = torch.arange(SEQUENCE)
        tokens = 4 + (numbers[:, None] * 3 + column * (1 + numbers[:, None] % 2)) % 16
        batch = {
            "rows": numbers,
            "source": torch.zeros_like(numbers),
            "tokens": tokens,
            "segments": torch.ones_like(tokens).int(),
            "positions": column.expand(rows, -1),
            "key": torch.tensor(5),
        }
        prepared: dict[str, torch.Tensor] = self.model.objective.prepare(batch)
        return prepared

    def batches(self) -> Any:
        for number in range(10**6):
            yield self.batch(8 * (number % 4))

    def logits(self) -> torch.Tensor:
        batch = self.batch()
        self.model.eval()
        with torch.no_grad():
            h = self.model.encode(batch, causal=self.model.objective.causal)
            scores: torch.Tensor = self.model.objective.logits(self.model, h)
        self.model.train()
        return scores

    def loss(self, start: int = 0) -> torch.Tensor:
        batch = self.batch(start)
        total: torch.Tensor = sum(value.sum() for value in self.model(batch).values()) / batch["units"].sum()
        return total

    def step(self, start: int = 0) -> float:
        """One update; the loss before it."""

        def closure() -> torch.Tensor:
            self.model.zero_grad(set_to_none=True)
            loss = self.loss(start)
            loss.backward()
            return loss.detach()

        return float(self.state.optimizer.step(closure))

    def train(self, steps: int) -> float:
        return [self.step(8 * (number % 4)) for number in range(steps)][-1]

    def gradients(self) -> dict[str, torch.Tensor]:
        self.model.zero_grad(set_to_none=True)
        self.loss().backward()
        return {name: parameter.grad.clone() for name, parameter in self.model.named_parameters() if parameter.grad is not None}

    def remember_gradients(self) -> dict[str, torch.Tensor]:
        """Make Adam's moments the gradient itself and its square, so that what growth carries can be compared with new gradients."""
        self.state.optimizer.init_state()
        found = self.gradients()
        for name, parameter in self.model.named_parameters():
            held = self.state.optimizer.state[parameter]
            held["exp_avg"].copy_(found[name])
            held["exp_avg_sq"].copy_(found[name] ** 2)
            held["step"].fill_(7)
        return found

    def moments(self, key: str) -> dict[str, torch.Tensor]:
        return {
            name: self.state.optimizer.state[parameter][key]
            for name, parameter in self.model.named_parameters()
            if self.state.optimizer.state.get(parameter)
        }
