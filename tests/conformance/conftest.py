"""What the suites of this folder share: every part of a slot as cases, and a tiny model to put parts into.

A suite names its slots in SLOTS; each of its tests that takes ``case`` runs once for every case of every part. A new part is
covered without editing where its knobs have defaults or ordinary names (ORDINARY); else it says here how it is made (KNOBS).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from ingot.core.parts import Spec, load, parts_in, signature
from ingot.core.resolve import spec
from ingot.nn.dropout import name_layers

WIDTH, SEQUENCE, VOCABULARY = 16, 12, 24
ORDINARY: dict[str, Any] = {"heads": 2, "depth": 2, "lr": 0.01, "base_width": 8, "mixer": {"name": "attention", "heads": 2}}
# Several ways to make a part; what is not named takes its default.
KNOBS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("nn.mixer", "attention"): [{}, {"heads": 4, "kv_heads": 2, "window": 3, "qk_norm": "rms", "bias": True, "softcap": 5.0}],
    ("nn.feedforward", "gelu"): [{}, {"bias": True, "approximate": "tanh", "hidden": 20}],
    ("nn.embedding", "token"): [{"dropout": 0.2}, {"position": "learned", "norm": "layer", "types": 2, "scale": 4.0}],
    ("model.encoder", "transformer"): [{"dropout": 0.2}, {"block": "hybrid", "norm": "layer", "feedforward": "swiglu", "final_norm": False}],
    ("objective", "causal_lm"): [{}, {"tied": False, "bias": True, "softcap": 20.0, "z_loss": 0.01}],
    ("objective", "masked_lm"): [{"rate": 0.4}, {"rate": 0.4, "tied": False, "bias": True, "transform": "layer"}],
    ("data.tokenizer", "bpe"): [{"vocabulary": 300}, {"vocabulary": 300, "specials": ["pad", "mask"], "sentinels": 2}],
    ("data.tokenizer", "pretrained"): [{"path": "tokenizer"}],
    ("data.pack", "stream"): [{}, {"attend": "row"}],
    ("hook", "clip"): [{"max_norm": 0.05}, {"max_norm": 0.05, "norm": 1.0}],
    ("hook", "ema"): [{"decay": 0.5}, {"decay": 0.9, "warmup": False}],
}


@dataclass(frozen=True)
class Case:
    """A part and its knobs. build: the part itself; extra knobs may be given."""

    slot: str
    name: str
    given: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    def __str__(self) -> str:
        return f"{self.slot}-{self.name}" + (f"-{self.number}" if self.number else "")

    @property
    def target(self) -> Any:
        return load(self.slot, self.name)

    @property
    def knobs(self) -> dict[str, Any]:
        return {name: ORDINARY[name] for name, (_, default) in signature(self.target).knobs.items() if default is inspect.Parameter.empty and name in ORDINARY} | self.given

    def spec(self, **more: Any) -> Spec:
        knobs = self.knobs | more
        missing = [name for name, (_, default) in signature(self.target).knobs.items() if default is inspect.Parameter.empty and name not in knobs]
        if missing:
            pytest.fail(f"{self.slot} {self.name!r} needs {', '.join(missing)}: say how it is made in KNOBS, tests/conformance/conftest.py")
        return spec(self.slot, self.name, **knobs)

    def build(self, **wiring: Any) -> Any:
        return self.spec().build(**wiring)


def cases(slot: str) -> list[Case]:
    return [Case(slot, name, given, number) for name in parts_in(slot) for number, given in enumerate(KNOBS.get((slot, name), [{}]))]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slots(*names): the slots of the suite that the test is about")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("slots")
        slots = marker.args if marker else metafunc.module.SLOTS
        metafunc.parametrize("case", [case for slot in slots for case in cases(slot)], ids=str)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Values of ordinary size in every parameter, so that nothing is hidden by a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + gain)
    name_layers(module)
    return module


def sequences(rows: list[int] | range = range(8)) -> dict[str, torch.Tensor]:
    """A batch of rows that a model can learn: each counts upward by a step of its own, in two documents. Row -1 is padding."""
    numbers = torch.tensor(list(rows))
    column = torch.arange(SEQUENCE)
    second = (column >= SEQUENCE // 2).long()
    tokens = 4 + (numbers[:, None] * 3 + column * (1 + numbers[:, None] % 2)) % 16
    real = (numbers >= 0)[:, None]
    return {
        "rows": numbers, "source": torch.zeros_like(numbers), "tokens": tokens * real, "segments": ((second + 1) * real).int(),
        "positions": (column - second * (SEQUENCE // 2)) * real, "key": torch.tensor(5),
    }  # fmt: skip


Build = Callable[..., Any]


@pytest.fixture
def tiny_model() -> Build:
    """tiny_model(objective Spec = causal_lm, dtype = fp32, dropout = 0.0, seed = 0) -> a Model with random weights."""

    def build(objective: Spec | None = None, dtype: torch.dtype = torch.float32, dropout: float = 0.0, seed: int = 0) -> Any:
        from ingot.model.graph import Model

        wiring = {"width": WIDTH, "vocabulary": VOCABULARY, "sequence": SEQUENCE, "specials": {"mask": 2, "end": 1}, "linear": spec("nn.linear", "dense")}
        encoder = spec("model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 2}, dropout=dropout).build(**wiring)
        model = Model(embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=(objective or spec("objective", "causal_lm")).build(**wiring))
        model.compute_dtype = dtype
        return randomize(model.double() if dtype == torch.float64 else model, seed)

    return build


@pytest.fixture
def batch_of() -> Callable[..., dict[str, torch.Tensor]]:
    """batch_of(row numbers) -> a batch of learnable rows; see ``sequences``."""
    return sequences


@pytest.fixture
def randomized() -> Callable[..., nn.Module]:
    """randomized(module, seed=0) -> the module with random parameters."""
    return randomize
