"""Row-wise randomness: same bits as the integer definition, under any split, on any compiler; and statistically noise."""

from __future__ import annotations

import math

import pytest
import torch

from ingot.ops.random import dropout, dropout_reference, hash_bits, hash_uniform, salt_of

KEY = torch.tensor(17)


def rows(*ids: int) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.int64)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


def test_matches_the_definition_in_unbounded_integers() -> None:
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    ids = rows(0, -1, 2**40 + 3, 2**62)
    for key, salt in ((torch.tensor(-5), salt_of("a")), (torch.tensor(2**61), 0)):
        assert torch.equal(dropout(x, 0.3, ids, key, salt), dropout_reference(x, 0.3, ids, key, salt))


def test_independent_of_the_split_and_of_the_order() -> None:
    ids = torch.arange(100, 112)
    whole = hash_uniform(ids, 50, KEY, 3)
    assert torch.equal(whole, torch.cat([hash_uniform(part, 50, KEY, 3) for part in ids.split([1, 4, 7])]))
    assert torch.equal(whole.flip(0), hash_uniform(ids.flip(0), 50, KEY, 3))
    assert torch.equal(whole[:, 20:], hash_uniform(ids, 30, KEY, 3, start=20))


def test_rows_beyond_32_bits_keys_and_salts_differ() -> None:
    base = hash_bits(rows(5), 64, KEY, 1)
    others = [hash_bits(rows(5 + 2**32), 64, KEY, 1), hash_bits(rows(6), 64, KEY, 1), hash_bits(rows(5), 64, KEY + 1, 1)]
    others += [hash_bits(rows(5), 64, KEY + 2**32, 1), hash_bits(rows(5), 64, KEY, 2), hash_bits(rows(5), 64, KEY, 1 + 2**33)]
    for other in others:
        assert (base == other).sum() <= 1


def test_salts_are_stable_and_may_be_tensors() -> None:
    assert salt_of("encoder.blocks.0") == 391463741588235402 and salt_of("a") != salt_of("b")
    assert 0 <= salt_of("x") < 2**63
    assert torch.equal(hash_bits(rows(1), 9, KEY, torch.tensor(77)), hash_bits(rows(1), 9, KEY, 77))


def test_uniform_moments_and_range() -> None:
    u = hash_uniform(torch.arange(512), 4096, KEY, 9).double()
    n = u.numel()
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    counts = torch.histc(u, 256, 0, 1)
    chi2 = float(((counts - n / 256) ** 2 / (n / 256)).sum())
    assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)


def test_every_bit_is_fair() -> None:
    bits = hash_bits(torch.arange(256), 4096, KEY, 9)
    for place in range(32):
        assert abs(((bits >> place) & 1).double().mean() - 0.5) < 5 * 0.5 / math.sqrt(bits.numel()), place


def test_no_correlation_across_elements_rows_keys_or_salts() -> None:
    u = hash_uniform(torch.arange(512), 4096, KEY, 9)
    bound = 5 / math.sqrt(u.numel())
    for lag in (1, 2, 3, 4, 64, 384, 2048):
        assert abs(correlation(u[:, lag:], u[:, :-lag])) < bound * 1.5, lag
    for lag in (1, 2, 16, 256):
        assert abs(correlation(u[lag:], u[:-lag])) < bound * 1.5, lag
    for other in (hash_uniform(torch.arange(512), 4096, KEY + 1, 9), hash_uniform(torch.arange(512), 4096, KEY, 10)):
        assert abs(correlation(u, other)) < bound


def test_row_means_spread_as_independent_rows_would() -> None:
    means = hash_uniform(torch.arange(4096), 512, KEY, 4).double().mean(1)
    expected = math.sqrt(1 / 12 / 512)
    assert abs(means.std() / expected - 1) < 0.06


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_rate_scale_and_gradient(dtype: torch.dtype) -> None:
    x = torch.ones(64, 100, 32, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.1, torch.arange(64), KEY, 5)
    zeros = float((y == 0).double().mean())
    assert abs(zeros - 0.1) < 5 * math.sqrt(0.09 / x.numel())
    assert torch.allclose(y[y != 0].float(), torch.tensor(1 / 0.9), rtol=4e-3)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)


def test_dropout_limits() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(dropout(x, 0.0, rows(0, 1), KEY, 1), x)
    assert not dropout(x, 1.0, rows(0, 1), KEY, 1).any()
    assert dropout(torch.empty(0, 3), 0.5, rows(), KEY, 1).shape == (0, 3)


def test_compiled_gives_the_same_mask() -> None:
    torch._dynamo.reset()

    def f(x: torch.Tensor, ids: torch.Tensor, key: torch.Tensor, salt: torch.Tensor) -> torch.Tensor:
        return dropout(x, 0.25, ids, key, salt)

    compiled = torch.compile(f, fullgraph=True)
    x = torch.randn(4, 33)
    for key, salt in ((KEY, torch.tensor(3)), (KEY + 2**40, torch.tensor(2**60))):
        ids = rows(3, 2**35, 0, 11)
        assert torch.allclose(compiled(x, ids, key, salt), f(x, ids, key, salt), rtol=1e-6)
        assert torch.equal(compiled(x, ids, key, salt) == 0, f(x, ids, key, salt) == 0)
