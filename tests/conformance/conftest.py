"""What the suites of this folder share: every part of a slot as cases, and a tiny model to put parts into.

A suite names its slots in SLOTS; each of its tests that takes ``case`` runs once for every case of every part (of those that its
``concerns`` accepts, where it has one). A new part is covered without editing where its knobs have defaults or ordinary names
(ORDINARY); else it says here how it is made (KNOBS).

Which batch a model is given follows from what its parts read (``reads``): _batches.py makes rows that can be learned, key by key.
An objective whose model is not a text encoder says in MODELS which one it is put into, as a recipe would.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.parts import Spec, load, parts_in, signature
from ingot.core.recipe import Recipe, merge_keys
from ingot.core.resolve import resolve, spec
from ingot.nn.dropout import name_layers

WIDTH, SEQUENCE, VOCABULARY = 16, 12, 24
ORDINARY: dict[str, Any] = {"heads": 2, "depth": 2, "lr": 0.01, "base_width": 8, "mixer": {"name": "attention", "heads": 2}}
SENTINELS = [20, 21, 22, 23]
STEM: dict[str, Any] = {"channels": 8, "kernels": [4, 3], "strides": [3, 2], "neighbors": 4, "groups": 4}
TEACHER: dict[str, Any] = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}
# Several ways to make a part; what is not named takes its default.
KNOBS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("nn.mixer", "attention"): [
        {},
        {"heads": 4, "kv_heads": 2, "window": 3, "qk_norm": "rms", "bias": True, "softcap": 5.0},
        {"position": {"name": "relative", "buckets": 8, "longest": 10, "shared": False}, "scale": 1.0},
    ],
    ("nn.feedforward", "moe"): [
        {"experts": 3},
        {
            "experts": 4,
            "expert": {"name": "gelu", "bias": True, "hidden": 8},
            "router": "bias_balanced",
            "shared": {"name": "relu2", "hidden": 8},
            "capacity_factor": 1.0,
        },
    ],
    ("nn.linear", "low_rank"): [{"rank": 4}, {"rank": 4, "start": "scaled"}],
    ("nn.linear", "sltrain"): [{"rank": 4, "density": 0.2}],
    ("nn.linear", "relora"): [{"rank": 4}],
    ("nn.linear", "monarch"): [{}, {"blocks": 3}],
    ("nn.linear", "ternary"): [{}, {"norm": None, "activations": False}],
    ("nn.linear", "quantized"): [{}, {"format": "int8", "scales": "tensor"}, {"format": "e5m2", "gradients": "e5m2"}],
    ("nn.linear", "sparse24"): [{}, {"unbiased": True}],
    ("nn.router", "top_k"): [{}, {"top_k": 1, "jitter": 0.1}, {"top_k": 3, "normalize": False}],
    ("nn.router", "bias_balanced"): [{}, {"score": "softmax", "normalize": False, "scale": 2.0}],
    ("nn.router", "soft"): [{"slots": 2}],
    ("nn.feedforward", "gelu"): [{}, {"approximate": "quick"}, {"bias": True, "approximate": "tanh", "hidden": 20}],
    ("nn.embedding", "token"): [{"dropout": 0.2}, {"position": "learned", "norm": "layer", "types": 2, "scale": 4.0}],
    ("model.encoder", "transformer"): [
        {"dropout": 0.2},
        {"block": "hybrid", "norm": "layer", "feedforward": "swiglu", "final_norm": False},
        {"dropout": 0.2, "checkpointing": "full"},
        {"dropout": 0.2, "checkpointing": "selective"},
    ],
    ("model.decoder", "transformer"): [
        {"cross": {"name": "cross_attention", "heads": 2}, "dropout": 0.2},
        {"cross": {"name": "cross_attention", "heads": 4, "kv_heads": 2, "bias": True, "qk_norm": "rms"}, "block": "post", "norm": "layer"},
        {"cross": {"name": "cross_attention", "heads": 2}, "block": "hybrid", "feedforward": "swiglu", "final_norm": False},
    ],
    ("nn.mixer", "cross_attention"): [{}, {"heads": 4, "kv_heads": 2, "bias": True, "qk_norm": "rms", "scale": 0.3}],
    ("nn.embedding", "patch"): [
        {"patch": 4},
        {"patch": 2, "class_token": True, "position": "sincos", "norm": "layer", "dropout": 0.2, "mean": [0.4, 0.5, 0.6]},
    ],
    ("nn.embedding", "stems"): [{"stems": {"image": {"name": "patch", "patch": 4}, "text": {"name": "token", "position": "learned"}}}],
    ("objective", "contrastive"): [{"outputs": 8, "pooling": "first"}, {"outputs": 8, "layers": 3, "norm": None, "temperature": 0.2}],
    ("objective", "self_distillation"): [
        {"outputs": 12, "bottleneck": 8, "teacher_temperature": 0.1, "pooling": "first"},
        {"outputs": 12, "bottleneck": 8, "layers": 2, "hidden": 10, "teacher_temperature": 0.1, "whole": 1},
    ],
    ("objective", "masked_patches"): [{}, {"rate": 0.5, "norm": False, "position": "learned"}],
    ("objective", "latent_prediction"): [{"size": 0.1}],
    ("objective", "clip"): [{"outputs": 8}],
    ("objective", "siglip"): [{"pooling": "attention", "heads": 2}, {"outputs": 8, "pooling": "first", "shift": -1.0}],
    ("nn.embedding", "waveform"): [
        STEM | {"dropout": 0.2, "stem_dropout": 0.2},
        STEM | {"norms": "all", "bias": True, "layers": 2, "norm": None, "project_norm": None},
    ],
    ("nn.embedding", "log_mel"): [{"dropout": 0.2}, {"strides": [1], "norm": "layer", "position": "learned"}],
    ("objective", "hubert"): [
        {"clusters": 6, "span": 3, "units": 8},
        {"clusters": 6, "share": 0.5, "span": 2, "units": 8, "unmasked": 0.5, "dropout": 0.1},
    ],
    ("objective", "wav2vec2"): [{"span": 3, "negatives": 4, "entries": 4, "code": 8, "units": 8, "temperature": 0.5}],
    ("objective", "data2vec_audio"): [{"span": 3, "layers": 2}, {"span": 3, "layers": 1, "beta": 0.5}],
    ("objective", "ctc"): [{}, {"hide": 0.2, "span": 2, "dropout": 0.1, "blank": 9}],
    ("nn.embedding", "series_patch"): [
        {"patch": 4},
        {"patch": 4, "stride": 2, "pad": True, "independent": False, "normalize": "mean", "norm": "layer", "dropout": 0.2},
    ],
    ("nn.embedding", "columns"): [{"dropout": 0.2}, {"class_token": False, "norm": "layer"}],
    ("objective", "forecasting"): [{}, {"quantiles": [0.1, 0.5, 0.9], "pooling": "mean", "dropout": 0.2}],
    ("objective", "masked_series"): [{"rate": 0.5}, {"rate": 0.5, "hide": "zeros", "consistent": True}],
    ("nn.mixer", "mlp_mixing"): [{}, {"hidden": 5, "gated": False}],
    ("objective", "classification"): [{}, {"smoothing": 0.1, "pooling": "first", "norm": "layer", "causal": False}],
    ("objective", "feature_distillation"): [
        {"teacher": {"width": 12, "embedding": {"name": "patch", "patch": 2}, "encoder": TEACHER}},
        {
            "teacher": {
                "width": 12,
                "embedding": {"name": "patch", "patch": 4, "class_token": True},
                "encoder": TEACHER,
                "pooling": "first",
            },
            "each": "row",
            "distance": "cosine",
            "whiten": False,
        },
    ],
    ("objective", "regression"): [{}, {"huber": 0.5, "mean": [1.5, 0.5], "std": 2.0}],
    ("model.encoder", "tread"): [{"depth": 3}, {"depth": 3, "dropout": 0.2, "end": 3, "share": 0.3, "checkpointing": "full"}],
    ("objective", "causal_lm"): [{}, {"tied": False, "bias": True, "softcap": 20.0, "z_loss": 0.01}],
    ("objective", "masked_lm"): [{"rate": 0.4}, {"rate": 0.4, "tied": False, "bias": True, "transform": "layer"}],
    ("objective", "span_corruption"): [
        {"rate": 0.4, "sentinels": SENTINELS},
        {"rate": 0.4, "sentinels": SENTINELS, "form": "causal", "tied": False},
        {"rate": 0.4, "mean": 1.5, "sentinels": SENTINELS, "scaled": True, "start": 0, "z_loss": 0.01},
    ],
    ("objective", "fill_in_the_middle"): [{"rate": 0.9, "shortest": 5, "prefix": 20, "suffix": 21, "middle": 22}],
    ("objective", "masked_diffusion"): [{"least": 0.2}, {"even": False, "least": 0.2, "tied": False, "bias": True}],
    ("objective", "multi_token"): [{"heads": 3, "layer": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}}],
    ("objective", "replaced_token"): [
        {
            "rate": 0.4,
            "weight": 2.0,
            "generator": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}},
            "generator_width": 8,
        },
        {"rate": 0.4, "contexts": 3},
    ],
    ("objective", "weighted"): [
        {"objectives": {"masked": {"name": "masked_lm", "rate": 0.4}, "causal": "causal_lm"}, "weights": {"causal": 0.5}}
    ],
    ("objective", "by_source"): [{"objectives": {"first": {"name": "masked_lm", "rate": 0.4}, "second": "causal_lm"}}],
    ("objective", "mixture_of_denoisers"): [
        {"sentinels": SENTINELS, "modes": {"regular": 0, "sequential": 3, "extreme": 19}},
        {"sentinels": SENTINELS, "form": "causal"},
    ],
    ("data.tokenizer", "bpe"): [{"vocabulary": 300}, {"vocabulary": 300, "specials": ["pad", "mask"], "sentinels": 2}],
    ("data.tokenizer", "pretrained"): [{"path": "tokenizer"}],
    ("data.pack", "stream"): [{}, {"attend": "row"}],
    ("optim", "adam4bit"): [{"smallest": 0}],
    ("optim", "adam8bit"): [{"smallest": 0}],
    ("optim", "apollo"): [{"rank": 4, "refresh": 3}, {"rank": 1, "scaling": "tensor", "scale": 4.0, "refresh": 2}],
    ("optim", "fira"): [{"rank": 4, "refresh": 3}],
    ("optim", "galore"): [{"rank": 4, "refresh": 3}, {"rank": 6, "refresh": 2, "subspace": "randomized", "state_bits": 8, "smallest": 0}],
    ("optim", "online_subspace_descent"): [{"rank": 4}],
    ("optim", "badam"): [{"every": 2}, {"every": 3, "order": "descending"}],
    ("optim", "lisa"): [{"layers": 1, "every": 2}],
    ("optim", "muon"): [{}, {"coefficients": "polar_express", "normalize": "neurons", "cautious": True, "weight_decay": 0.1}],
    ("optim", "sam"): [{"inner": {"name": "adamw", "lr": 0.01}}, {"adaptive": True, "rho": 0.5, "inner": {"name": "muon", "lr": 0.01}}],
    ("objective", "nested"): [{"depths": [1], "shares": [0.5]}, {"objective": {"name": "masked_lm", "rate": 0.4}, "depths": [1]}],
    ("transform", "widen"): [{}, {"width": 1, "hidden": 1.3}, {"heads": 1}, {"width": 3, "split": 0.0}],
    ("transform", "hyperclone"): [{}, {"diagonal": True}, {"noise": 0.3}, {"diagonal": True, "noise": 0.3, "times": 3}],
    ("transform", "identity_depth"): [{}, {"depth": 5, "place": "end"}],
    ("transform", "upcycle"): [{"experts": 4}, {"experts": 3, "router": {"name": "top_k", "top_k": 1}, "every": 2}],
    ("transform", "from_checkpoints"): [{"paths": [], "own": 3}],
    ("evaluate", "zero_shot"): [{"classes": ["a", "bc", "def", "g"]}],
    ("hook", "clip"): [{"max_norm": 0.05}, {"max_norm": 0.05, "norm": 1.0}],
    ("hook", "relora"): [{"every": 2}],
    ("hook", "ema"): [{"decay": 0.5}, {"decay": 0.9, "warmup": False}],
    ("hook", "learnability"): [{}, {"reference": "another", "keep": 0.25}],
    ("hook", "sequence_length"): [{"share": 0.5, "shortest": 2}],
}

# The model an objective is put into where it is not the usual encoder of tokens: what differs, by components of the recipe's section.
IMAGES = {"embedding": {"name": "patch", "patch": 2, "class_token": True}}
SOUND = {"embedding": {"name": "waveform"} | STEM}
SERIES = {"embedding": {"name": "series_patch", "patch": 3}}
DECODED = {
    "decoder": {
        "name": "transformer",
        "depth": 1,
        "mixer": {"name": "attention", "heads": 2},
        "cross": {"name": "cross_attention", "heads": 2},
    }
}
MODELS: dict[str, dict[str, Any]] = {
    "span_corruption": DECODED,
    "mixture_of_denoisers": DECODED,
    "classification": IMAGES,
    "feature_distillation": IMAGES,
    "regression": IMAGES,
    "forecasting": SERIES,
    "masked_series": SERIES,
    "masked_columns": {"embedding": "columns"},
}
LIGHT = IMAGES | {
    "decoder": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2, "position": None}, "cross": None, "inner": 8}
}
PAIRS = IMAGES | {
    "towers": {
        "text": {
            "width": 12,
            "embedding": "token",
            "encoder": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}},
        }
    }
}
MODELS |= {
    "contrastive": IMAGES,
    "self_distillation": IMAGES,
    "masked_patches": LIGHT,
    "latent_prediction": LIGHT,
    "clip": PAIRS,
    "siglip": PAIRS,
}
MODELS |= {"hubert": SOUND, "wav2vec2": SOUND, "data2vec_audio": SOUND, "ctc": SOUND}
# Keys that an objective uses where rows have them, beside those it reads.
ALSO = {"clip": ("label",), "contrastive": ("image_1",), "self_distillation": ("image_1", "image_2")}
USUAL: dict[str, Any] = {
    "width": WIDTH,
    "embedding": "token",
    "encoder": {"name": "transformer", "depth": 2, "mixer": {"name": "attention", "heads": 2}},
}


def _beside(name: str) -> Any:
    """A file of this folder as a module."""
    found = importlib.util.spec_from_file_location(f"conformance{name}", Path(__file__).parent / f"{name}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


batches = _beside("_batches")


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
        return {
            name: ORDINARY[name]
            for name, (_, default) in signature(self.target).knobs.items()
            if default is inspect.Parameter.empty and name in ORDINARY
        } | self.given

    def spec(self, **more: Any) -> Spec:
        knobs = self.knobs | more
        if "lr" in more and "lr" not in signature(self.target).knobs:  # it is that of the optimizer inside
            knobs["inner"] = knobs["inner"] | {"lr": knobs.pop("lr")}
        missing = [
            name for name, (_, default) in signature(self.target).knobs.items() if default is inspect.Parameter.empty and name not in knobs
        ]
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
        concerns = getattr(metafunc.module, "concerns", lambda case: True)
        metafunc.parametrize("case", [case for slot in slots for case in cases(slot) if concerns(case)], ids=str)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Values of ordinary size in every parameter, so that nothing is hidden by a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + gain)
    name_layers(module)
    return module


def section_of(objective: Spec, dropout: float = 0.0) -> Graph:
    """The model section around an objective."""
    around = {} if objective.knobs.get("form") == "causal" else MODELS.get(objective.name, {})
    tree = merge_keys(USUAL, around) | {"objective": objective.data()}
    return resolve(Recipe(merge_keys(tree, {"encoder": {"dropout": dropout}})), Graph)


def keys_of(section: Graph) -> list[str]:
    """Batch keys that the components of a model read."""
    embeddings = [section.embedding, *(tower.embedding for tower in section.towers.values())]
    if any(embedding.name == "stems" for embedding in embeddings):
        embeddings += [stem for embedding in embeddings if embedding.name == "stems" for stem in embedding.knobs["stems"].values()]
    read = [key for embedding in embeddings for key in (() if embedding.name == "stems" else embedding.target.reads)]
    return [*read, *getattr(section.objective.target, "reads", ()), *ALSO.get(section.objective.name, ())]


Build = Callable[..., Any]


@pytest.fixture
def tiny_model() -> Build:
    """tiny_model(objective Spec = causal_lm, dtype = fp32, dropout = 0.0, seed = 0) -> a Model with random weights; see MODELS."""

    def build(objective: Spec | None = None, dtype: torch.dtype = torch.float32, dropout: float = 0.0, seed: int = 0) -> Any:
        section = section_of(objective or spec("objective", "causal_lm"), dropout)
        model = build_model(
            section,
            vocabulary=VOCABULARY,
            sequence=SEQUENCE,
            specials={"mask": 2, "end": 1},
            dtype=dtype,
            fields=batches.fields(keys_of(section)),
        )
        return randomize(model.double() if dtype == torch.float64 else model, seed)

    return build


@pytest.fixture
def batch_of(request: pytest.FixtureRequest) -> Callable[..., dict[str, torch.Tensor]]:
    """batch_of(row numbers, objective=None) -> a batch of learnable rows with what the model around the objective reads: the case's own
    where the test is about an objective, else tokens. Row -1 is padding."""

    def make(rows: list[int] | range = range(8), objective: Spec | None = None) -> dict[str, torch.Tensor]:
        case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
        chosen = objective or (case.spec() if isinstance(case, Case) and case.slot == "objective" else None)
        found: dict[str, torch.Tensor] = batches.batch(rows, keys_of(section_of(chosen)) if chosen else ("tokens",))
        return found

    return make


@pytest.fixture
def rows_of() -> Any:
    """The module that makes batches, for suites of parts that read one key or another."""
    return batches


@pytest.fixture
def randomized() -> Callable[..., nn.Module]:
    """randomized(module, seed=0) -> the module with random parameters."""
    return randomize
