"""The partwise loss against the definition: values, gradients, every upstream gradient, masked targets, all options."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ingot.ops import cross_entropy as module
from ingot.ops.cross_entropy import linear_cross_entropy, linear_cross_entropy_reference, token_nll

OPTIONS = [{}, {"softcap": 3.0}, {"z_loss": 0.1}, {"softcap": 3.0, "z_loss": 0.1}]


def problem(
    dtype: torch.dtype = torch.float64, B: int = 3, T: int = 50, D: int = 12, V: int = 40, share: float = 0.6
) -> list[torch.Tensor]:
    torch.manual_seed(0)
    h, w, b = torch.randn(B, T, D, dtype=dtype), torch.randn(V, D), torch.randn(V)
    master = torch.float64 if dtype == torch.float64 else torch.float32
    targets = torch.randint(0, V, (B, T)).masked_fill(torch.rand(B, T) > share, -100)
    return [h.requires_grad_(), w.to(master).requires_grad_(), b.to(master).requires_grad_(), targets]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts of several strips, the last ones partial, even for these few positions."""
    monkeypatch.setattr(module, "PART_BYTES", {"cpu": 0})
    monkeypatch.setattr(module, "STRIP_BYTES", {"cpu": 0})


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("share", [0.15, 0.6, 1.1])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("upstream", ["uniform", "per row", "per row and loss"])
def test_exact_in_fp64(options: dict[str, float], share: float, biased: bool, upstream: str) -> None:
    h, w, b, targets = problem(share=share)
    leaves = [h, w, b] if biased else [h, w]
    row_weights = torch.full((3,), 0.25) if upstream == "uniform" else torch.tensor([0.5, 0.0, 2.0])
    z_weights = row_weights if upstream != "per row and loss" else torch.tensor([1.0, 3.0, -1.0])
    found = []
    for f in (linear_cross_entropy, linear_cross_entropy_reference):
        loss_B, z_B = f(h, w, targets, bias_V=b if biased else None, **options)
        found.append([loss_B, z_B, *torch.autograd.grad((loss_B * row_weights + z_B * z_weights).sum(), leaves)])
    for fast, plain in zip(*found):
        assert torch.allclose(fast, plain, rtol=1e-11, atol=1e-12)


def test_against_torch() -> None:
    h, w, _, targets = problem(share=1.1)
    loss_B, z_B = linear_cross_entropy(h, w, targets)
    assert torch.allclose(loss_B.sum(), F.cross_entropy(F.linear(h, w).flatten(0, 1), targets.flatten(), reduction="sum"), atol=1e-11)
    assert not z_B.any()


def test_gradcheck_first_and_second_order() -> None:
    h, w, b, targets = problem(B=2, T=3, D=2, V=4)

    def f(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return linear_cross_entropy(h, w, targets, bias_V=b, softcap=2.0, z_loss=0.1)

    assert torch.autograd.gradcheck(f, (h, w, b))
    assert torch.autograd.gradgradcheck(f, (h, w, b))


def test_bf16_activations_with_fp32_weights() -> None:
    h, w, _, targets = problem(torch.bfloat16, T=200, D=64, V=300)
    loss_B, _ = linear_cross_entropy(h, w, targets)
    dh, dw = torch.autograd.grad(loss_B.sum() / 100, (h, w))
    wide_h, wide_w = h.detach().double().requires_grad_(), w.detach().to(torch.bfloat16).double().requires_grad_()
    truth_B, _ = linear_cross_entropy_reference(wide_h, wide_w, targets)
    truth = torch.autograd.grad(truth_B.sum() / 100, (wide_h, wide_w))
    assert (loss_B.dtype, dh.dtype, dw.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    assert ((loss_B - truth_B) / truth_B).abs().max() < 1e-3
    plain_B, _ = linear_cross_entropy_reference(h, w, targets)
    plain = torch.autograd.grad(plain_B.sum() / 100, (h, w))
    for found, theirs, exact in zip((dh, dw), plain, truth):  # no further off than bf16 logits make the plain route
        assert (found.double() - exact).norm() < 1.1 * (theirs.double() - exact).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_very_unlikely_targets_stay_exact(dtype: torch.dtype) -> None:
    h = torch.tensor([[[200.0], [1.0]]], dtype=dtype)
    w = torch.tensor([[1.0], [-1.0], [0.0]])
    loss_B, _ = linear_cross_entropy(h, w, torch.tensor([[1, 2]]))
    assert torch.allclose(loss_B, torch.tensor([400.0]) + torch.tensor([1.0, -1.0, 0.0]).logsumexp(0))


def test_nothing_scored() -> None:
    h, w, b, targets = problem()
    loss_B, _ = linear_cross_entropy(h, w, torch.full_like(targets, -100), bias_V=b)
    gradients = torch.autograd.grad(loss_B.sum(), (h, w, b))
    assert not loss_B.any() and all(g.shape == p.shape and not g.any() for g, p in zip(gradients, (h, w, b)))


def test_backward_twice_and_frozen_operands() -> None:
    h, w, _, targets = problem()
    loss_B, _ = linear_cross_entropy(h, w, targets)
    first = torch.autograd.grad(loss_B.sum(), (h, w), retain_graph=True)
    second = torch.autograd.grad(2 * loss_B.sum(), (h, w))
    assert all(torch.allclose(2 * a, b) for a, b in zip(first, second))
    (only_w,) = torch.autograd.grad(linear_cross_entropy(h.detach(), w, targets)[0].sum(), (w,))
    (only_h,) = torch.autograd.grad(linear_cross_entropy(h, w.detach(), targets)[0].sum(), (h,))
    assert torch.allclose(only_h, first[0]) and torch.allclose(only_w, first[1])


def test_a_loss_of_two_terms_adds_up_over_any_split_of_rows() -> None:
    h, w, _, targets = problem(B=6)
    whole = torch.autograd.grad(linear_cross_entropy(h, w, targets)[0].sum(), (w,))[0]
    parts = sum(torch.autograd.grad(linear_cross_entropy(h[i : i + 2], w, targets[i : i + 2])[0].sum(), (w,))[0] for i in (0, 2, 4))
    assert torch.allclose(whole, parts, rtol=1e-12)


def test_token_losses_sum_to_the_row_losses() -> None:
    h, w, b, targets = problem()
    nll_BT = token_nll(h, w, targets, bias_V=b)
    assert torch.allclose(nll_BT.sum(1), linear_cross_entropy(h, w, targets, bias_V=b)[0])
    assert not nll_BT[targets == -100].any() and not nll_BT.requires_grad


def test_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor made is a part, far below N x V."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))])
            return out

    h, w, _, targets = (t.detach() for t in problem(B=8, T=200, D=4, V=500, share=1.1))
    with Watch():
        module._Head(h, w, targets, None, 0.0, 0.0).run(True, True)
    assert largest <= 64 * 500 < 8 * 200 * 500


def test_operator_registrations_and_full_graph_compile() -> None:
    torch._dynamo.reset()
    h, w, b, targets = problem(torch.float32)
    sample = (h, w, targets, b, 2.0, 0.1, True, True)
    torch.library.opcheck(
        torch.ops.ingot.linear_cross_entropy.default, sample, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )

    def f(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return linear_cross_entropy(h * 2, w, targets)[0].sum()

    eager, compiled = f(h, w), torch.compile(f, fullgraph=True, backend="aot_eager")(h, w)
    assert torch.allclose(eager, compiled)
    for a, c in zip(torch.autograd.grad(eager, (h, w)), torch.autograd.grad(compiled, (h, w))):
        assert torch.allclose(a, c, atol=1e-5)
