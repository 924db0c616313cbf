"""wav2vec 2.0 against transformers' pre-training loss; negatives; the running average against the batch's own entropy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ingot.core.resolve import spec
from ingot.nn.context import Context

transformers = pytest.importorskip("transformers")
T, C, D, K = 30, 16, 32, 7


def build(**knobs: Any) -> Any:
    torch.manual_seed(0)
    embedding = SimpleNamespace(channels=C, grid=lambda batch: (T,), lengths=lambda batch: batch["lengths"])
    part = spec("objective", "wav2vec2", **{"negatives": K, "entries": 5, "code": 8, "units": 6, "span": 3} | knobs).build(
        width=D, linear=spec("nn.linear", "dense"), embedding=embedding
    )
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_(0, 0.5)
    return part


def batch() -> dict[str, torch.Tensor]:
    return {"rows": torch.arange(3), "key": torch.tensor(2), "lengths": torch.tensor([T, T, T])}


def theirs(objective: Any) -> Any:
    config = transformers.Wav2Vec2Config(
        hidden_size=D,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=[C],
        conv_kernel=[4],
        conv_stride=[2],
        num_feat_extract_layers=1,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_codevectors_per_group=5,
        codevector_dim=8,
        proj_codevector_dim=6,
        num_negatives=K,
        feat_quantizer_dropout=0.0,
        mask_time_prob=0.0,
    )
    model = transformers.Wav2Vec2ForPreTraining(config).eval()
    with torch.no_grad():
        model.quantizer.codevectors.copy_(objective.quantizer.codebook.view(1, 10, 4))
        for one, other in (
            (model.quantizer.weight_proj, objective.quantizer.scores),
            (model.project_hid, objective.head),
            (model.project_q, objective.values),
        ):
            one.weight.copy_(other.weight)
            one.bias.copy_(other.bias)
    return model


def test_the_loss_of_transformers() -> None:
    objective = build().eval()
    prepared = objective.prepare(batch())
    h, z = torch.randn(3, T, D), torch.randn(3, T, C)
    reference = theirs(objective)
    reference.wav2vec2.forward = lambda *args, **kwargs: transformers.models.wav2vec2.modeling_wav2vec2.Wav2Vec2BaseModelOutput(
        last_hidden_state=h, extract_features=z
    )
    negatives = prepared["negatives"] + T * torch.arange(3)[:, None, None]
    wanted = reference(torch.zeros(3, 62), mask_time_indices=prepared["masked"], sampled_negative_indices=negatives)
    p = reference.quantizer.weight_proj(z).view(-1, 2, 5).softmax(-1)[prepared["masked"].flatten()].mean(dim=0)
    objective.quantizer.usage.copy_(p)  # the batch's own: the tangent then has the term's value
    losses = objective(SimpleNamespace(encoded=lambda batch, causal, hide: (h, Context(shared={"stem": (z,)}))), prepared)
    torch.testing.assert_close(losses["contrastive"].sum(), wanted.contrastive_loss, rtol=1e-4, atol=1e-4)
    training = reference.train()(
        torch.zeros(3, 62), mask_time_indices=prepared["masked"], sampled_negative_indices=negatives
    )  # where theirs, too, takes the soft shares
    torch.testing.assert_close(losses["diversity"].sum(), 0.1 * training.diversity_loss, rtol=1e-4, atol=1e-4)


def test_the_tangent_has_the_gradient_of_the_batchs_entropy() -> None:
    quantizer = build().quantizer.double()
    scores = torch.randn(2, T, 2, 5, dtype=torch.float64, requires_grad=True)
    masked = torch.rand(2, T) < 0.5
    p = scores.softmax(dim=-1)
    mean = p[masked].mean(dim=0)
    exact = (1 - (-(mean * mean.log()).sum(dim=-1)).exp() / 5).mean() * masked.sum()
    wanted = torch.autograd.grad(exact, scores, retain_graph=True)[0]
    quantizer.usage.copy_(mean.detach())
    tangent = quantizer.diversity(p, masked).sum()
    torch.testing.assert_close(tangent, exact)
    torch.testing.assert_close(torch.autograd.grad(tangent, scores)[0], wanted)


def test_negatives_are_other_masked_positions_of_the_row() -> None:
    objective = build(negatives=50)
    found = objective.prepare(batch())
    for row in range(3):
        there = found["masked"][row].nonzero()[:, 0]
        for t in there.tolist():
            picked = set(found["negatives"][row, t].tolist())
            assert t not in picked and picked <= set(there.tolist())
        assert len(picked) > len(there) // 2


def test_the_average_follows_the_steps_counts_and_is_saved() -> None:
    quantizer = build(memory=0.5).quantizer
    totals = {
        "usage": torch.tensor([[4.0, 0, 0, 0, 0], [1, 1, 1, 1, 0]]),
        "positions": torch.tensor(4.0),
        "codes": torch.tensor([[4.0, 0, 0, 0, 0], [2, 2, 0, 0, 0]]),
    }
    assert quantizer.counted(totals)["code_perplexity"] == pytest.approx(3.0)
    assert quantizer.usage[0].tolist() == [1, 0, 0, 0, 0]  # the first step counts in full
    quantizer.counted(totals | {"usage": torch.full((2, 5), 0.8)})
    assert quantizer.usage[0, 0] == pytest.approx(0.6) and {"usage", "seen"} <= set(quantizer.state_dict())


def test_hard_forward_soft_backward() -> None:
    quantizer = build().quantizer
    z = torch.randn(1, T, C, requires_grad=True)
    noise = torch.zeros(1, T, 2, 5)
    sharp, flat = (quantizer(z, noise, temperature) for temperature in (0.5, 5.0))
    torch.testing.assert_close(sharp[0], flat[0])
    steep, shallow = (torch.autograd.grad(value[0].square().sum(), z, retain_graph=True)[0].norm() for value in (sharp, flat))
    assert steep > 1.5 * shallow
