"""Amounts: each unit, the edges between them, and counts that a recipe takes back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.core.amounts import count, duration, money, size
from ingot.core.quantities import parse_quantity


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "", "–"),
        (math.nan, "FLOP", "–"),
        (0, "", "0"),
        (0.25, "", "0.25"),
        (12, "", "12"),
        (950, "", "950"),
        (4000, "", "4,000"),
        (12_345.0, "", "12,345"),
        (123_456, "", "123 k"),
        (999_400, "", "999 k"),
        (999_600, "", "1 M"),
        (1.24e6, "", "1.24 M"),
        (3.28e10, "", "32.8 B"),
        (1.2e19, "", "12 E"),
        (-1.5e6, "", "-1.5 M"),
        (5, "FLOP", "5 FLOP"),
        (2e9, "FLOP", "2 GFLOP"),
        (3.5e15, "FLOP", "3.5 PFLOP"),
        (9.996e11, "FLOP/s", "1 TFLOP/s"),
        (5e27, "FLOP", "5000 YFLOP"),
    ],
)
def test_counts(value: float | None, unit: str, text: str) -> None:
    assert count(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (512, "512 B"), (1010, "1010 B"), (1536, "1.5 KiB"), (1010 << 10, "1010 KiB"), (3 << 30, "3 GiB"), (1 << 50, "1024 TiB")],
)
def test_sizes(value: float | None, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (math.inf, "–"),
        (0.31, "0.31 s"),
        (7.2, "7.2 s"),
        (42, "42 s"),
        (83, "1 min 23 s"),
        (599.9, "10 min 00 s"),
        (3599.9, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_money() -> None:
    assert [money(amount) for amount in (0, 0.001, 1.5)] == ["0.00", "under 0.01", "1.50"]


@given(st.floats(1, 1e17))
def test_a_recipe_takes_a_count_back(value: float) -> None:
    text = count(value).replace(",", "")
    assert parse_quantity(f"{text} tokens").value == pytest.approx(value, rel=5.1e-3)


@given(st.floats(1, 1e26), st.sampled_from(["", "FLOP"]))
def test_no_count_is_written_with_an_exponent_or_more_digits_than_a_thousand_has(value: float, unit: str) -> None:
    head = count(value, unit).split()[0]
    assert "e" not in head and float(head.replace(",", "")) <= 100_000
