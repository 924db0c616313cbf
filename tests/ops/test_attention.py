"""The blocked kernel against the definition: exact in fp64, in every combination of masks, and safe around padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.ops import attention as module
from ingot.ops.attention import allowed_pairs, attended_pairs, attention, attention_reference

PACKED = torch.tensor([[1] * 40 + [2] * 70 + [3] * 30, [1] * 100 + [0] * 40], dtype=torch.int32)


def operands(
    B: int = 2, H: int = 4, K: int = 4, T: int = 140, S: int | None = None, d: int = 8, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    torch.manual_seed(1)
    S = S or T
    q, k, v = torch.randn(B, T, H, d, dtype=dtype), torch.randn(B, S, K, d, dtype=dtype), torch.randn(B, S, K, d, dtype=dtype)
    return [t.transpose(1, 2).detach().requires_grad_() for t in (q, k, v)]


def both(leaves: list[torch.Tensor], g: torch.Tensor, **options: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    found = []
    for f in (attention, attention_reference):
        bias = {"bias_HTS": leaves[3]} if len(leaves) > 3 else {}
        out = f(*leaves[:3], **bias, **options)
        found.append([out, *torch.autograd.grad(out, leaves, g)])
    return found[0], found[1]


def agree(leaves: list[torch.Tensor], tolerance: float = 1e-12, **options: Any) -> None:
    fast, plain = both(leaves, torch.randn_like(leaves[0]), **options)
    for f, p in zip(fast, plain):
        assert (f - p).abs().max() < tolerance


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 37])
@pytest.mark.parametrize("segments", [None, PACKED])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_exact_in_fp64(
    causal: bool, window: int | None, segments: torch.Tensor | None, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 48)  # several blocks, the last one partial
    agree(operands(K=kv_heads), causal=causal, window=window, segments_BT=segments)


@pytest.mark.parametrize("keep", [0, 1024])
def test_softcap_bias_scale_and_recomputation(keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 48)
    monkeypatch.setattr(module, "KEEP", keep)
    leaves = [*operands(), torch.randn(4, 140, 140, dtype=torch.float64).requires_grad_()]
    agree(leaves, causal=True, segments_BT=PACKED, softcap=2.0, scale=0.7)
    agree(leaves, causal=False, softcap=2.0)
    agree(leaves[:3], causal=True)


def test_queries_are_the_last_positions_of_a_cache() -> None:
    q, k, v = operands(T=140)
    whole = attention(q, k, v, causal=True, window=50)
    for count in (1, 5, 130):
        assert torch.allclose(attention(q[:, :, -count:], k, v, causal=True, window=50), whole[:, :, -count:], atol=1e-13)
    agree(operands(T=9, S=140), causal=True)
    with pytest.raises(ValueError, match="queries are the last positions"):
        attention(q, k[:, :, :3], v[:, :, :3], causal=True)


def test_rows_of_one_document_each_need_no_mask() -> None:
    whole = torch.tensor([[1] * 140, [2] * 140])
    leaves = operands()
    agree(leaves, causal=True, segments_BT=whole)
    assert torch.equal(attention(*leaves, causal=True, segments_BT=whole), attention(*leaves, causal=True))
    agree(leaves, causal=False, segments_BT=whole, key_segments_BS=whole.flip(0))


def test_cross_attention_by_segments_with_unmatched_queries() -> None:
    queries = torch.tensor([[1, 1, 2, 3, 0], [1, 2, 2, 0, 0]])
    keys = torch.tensor([[1, 2, 2, 2, 0, 0, 0], [2, 2, 2, 2, 2, 2, 0]])
    leaves = operands(T=5, S=7)
    agree(leaves, causal=False, segments_BT=queries, key_segments_BS=keys)
    out = attention(*leaves, causal=False, segments_BT=queries, key_segments_BS=keys)
    assert not out[0, :, 3:].any() and not out[1, :, 0].any() and out[0, :, 2].all()


def test_a_packed_row_equals_its_documents_alone() -> None:
    q, k, v = operands()
    packed = attention(q, k, v, causal=True, segments_BT=PACKED)
    start = 0
    for length in (40, 70, 30):
        part = slice(start, start + length)
        alone = attention(q[:1, :, part], k[:1, :, part], v[:1, :, part], causal=True)
        assert torch.allclose(packed[:1, :, part], alone, atol=1e-13)
        start += length


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_padding_give_zeros_and_no_nan(dtype: torch.dtype) -> None:
    leaves = operands(dtype=dtype)
    segments = PACKED.clone()
    segments[0] = 0
    out = attention(*leaves, causal=True, segments_BT=segments)
    gradients = torch.autograd.grad(out, leaves, torch.full_like(out, float("nan")).masked_fill((segments != 0)[:, None, :, None], 1.0))
    assert not out[0].any() and not out[1, :, 100:].any()
    for gradient in gradients:
        assert torch.isfinite(gradient).all() and not gradient[0].any()


def test_bf16_is_as_close_to_the_truth_as_torchs_kernel() -> None:
    leaves = operands(B=4, H=6, K=6, T=256, d=64, dtype=torch.bfloat16)
    g = torch.randn(4, 6, 256, 64, dtype=torch.bfloat16)
    fast, _ = both(leaves, g, causal=True)
    out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
    native = [out, *torch.autograd.grad(out, leaves, g)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    exact, _ = both(wide, g.double(), causal=True)
    for ours, theirs, truth in zip(fast, native, exact):
        error = [(t.double() - truth).square().mean().sqrt() / truth.square().mean().sqrt() for t in (ours, theirs)]
        assert error[0] < 2 * error[1] and error[0] < 8e-3


def test_gradcheck_first_and_second_order() -> None:
    q, k, v = operands(B=1, H=2, K=1, T=5, d=3)
    segments = torch.tensor([[1, 1, 2, 2, 0]])

    def f(*leaves: torch.Tensor) -> torch.Tensor:
        return attention(*leaves, causal=True, segments_BT=segments)

    assert torch.autograd.gradcheck(f, (q, k, v))
    assert torch.autograd.gradgradcheck(f, (q, k, v))


def test_operator_registrations_and_full_graph_compile() -> None:
    torch._dynamo.reset()
    leaves = operands(dtype=torch.float32)
    sample = (*leaves, PACKED, PACKED, None, True, 0, 0.3, 0.0, True)
    torch.library.opcheck(
        torch.ops.ingot.blocked_attention.default, sample, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )

    def block(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q * 2, k, v, causal=True, segments_BT=PACKED).transpose(1, 2).reshape(2, 140, -1).tanh()

    eager, compiled = block(*leaves), torch.compile(block, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.allclose(eager, compiled, atol=1e-6)
    g = torch.randn_like(eager)
    for a, b in zip(torch.autograd.grad(eager, leaves, g), torch.autograd.grad(compiled, leaves, g)):
        assert torch.allclose(a, b, atol=1e-5)


def test_nothing_is_kept_without_gradient() -> None:
    q, k, v = (t.detach() for t in operands())
    assert torch.ops.ingot.blocked_attention(q, k, v, None, None, None, True, 0, 1.0, 0.0, False)[1].numel() == 0
    with torch.no_grad():
        attention(*operands(), causal=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 20])
@pytest.mark.parametrize("queries", [140, 7])
def test_attended_pairs_count_the_mask(causal: bool, window: int | None, queries: int) -> None:
    cpu = torch.device("cpu")
    mask = allowed_pairs(queries, 140, causal=causal, window=window, segments_BT=None, key_segments_BS=None, device=cpu)
    assert attended_pairs(queries, causal, window, keys=140) == int(mask.sum())
    segments = PACKED[:, -queries:]
    mask = allowed_pairs(queries, 140, causal=causal, window=window, segments_BT=segments, key_segments_BS=PACKED, device=cpu)
    expected = int((mask & (segments != 0)[:, :, None]).sum())
    assert attended_pairs(queries, causal, window, segments, keys=140, key_segments_BS=PACKED) == expected


def test_attended_pairs_of_a_causal_row() -> None:
    assert attended_pairs(256, True) == 256 * 257 // 2
    assert attended_pairs(256, False) == 256**2


def test_decoding_does_not_copy_its_cache() -> None:
    """Keys and values of a cache are the first of many: whole where a product reads them, copied only where a gradient is to be taken."""
    q, k, v = (t.detach() for t in operands(T=1, S=64))
    held = [torch.zeros(2, 4, 256, 8, dtype=torch.float64) for _ in range(2)]
    for cache, given in zip(held, (k, v)):
        cache[:, :, :64] = given
    with torch.profiler.profile() as seen, torch.no_grad():
        out = attention(q, held[0][:, :, :64], held[1][:, :, :64], causal=True)
    torch.testing.assert_close(out, attention_reference(q, k, v, causal=True))
    sizes = [event.input_shapes for event in seen.events() if event.name in ("aten::clone", "aten::contiguous")]
    assert not sizes
