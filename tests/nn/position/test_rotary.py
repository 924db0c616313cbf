"""Rotary positions: scores depend on distance alone; against transformers."""

from __future__ import annotations

import pytest
import torch

from ingot.core.resolve import spec


def turned(layer: torch.nn.Module, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return layer(x, layer.angles(positions, x.dtype))


def test_scores_depend_on_distance_alone_and_lengths_are_kept() -> None:
    layer = spec("nn.position", "rotary", theta=100.0).build(head_dim=8)
    q, k = torch.randn(1, 2, 5, 8, dtype=torch.float64), torch.randn(1, 2, 5, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 4, 9, 2]])
    first = turned(layer, q, positions) @ turned(layer, k, positions).mT
    second = turned(layer, q, positions + 1000) @ turned(layer, k, positions + 1000).mT
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(turned(layer, q, positions).norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(turned(layer, q, torch.zeros(1, 5)), q)


@pytest.mark.parametrize(
    "scaling",
    [None, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}],
)
def test_against_transformers(scaling: dict[str, object] | None) -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = pytest.importorskip("transformers").LlamaConfig(
        hidden_size=64, num_attention_heads=2, rope_parameters=(scaling or {"rope_type": "default"}) | {"rope_theta": 500.0}
    )
    knobs = {} if scaling is None else {"scaling": 8.0, "low": 1.0, "high": 4.0, "original": 64}
    layer = spec("nn.position", "rotary", theta=500.0, **knobs).build(head_dim=32)
    q, positions = torch.randn(2, 2, 300, 32), torch.arange(300).expand(2, -1)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, positions)
    expected, _ = llama.apply_rotary_pos_emb(q, q, cos, sin)
    torch.testing.assert_close(turned(layer, q, positions), expected, rtol=1e-5, atol=1e-5)
