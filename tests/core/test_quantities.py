"""Amounts with units: what recipes write, what is refused, and that writing back reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ingot.core.quantities import Batch, Budget, Quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("20M tokens", 20e6, "tokens"),
        ("1M rows", 1e6, "rows"),
        ("2 h audio", 7200, "audio_seconds"),
        ("3e15 flops", 3e15, "flops"),
        ("30 min", 1800, "seconds"),
        ("32k tokens", 32e3, "tokens"),
        ("256 images", 256, "rows"),
        ("2 GiB", 2 * 1024**3, "bytes"),
        ("500 MB", 5e8, "bytes"),
        ("5%", 0.05, "fraction"),
        ("1_000 steps", 1000, "steps"),
        ("1B tokens", 1e9, "tokens"),
        ("4 B", 4, "bytes"),
        ("1 step", 1, "steps"),
        ("2.5 hours", 9000, "seconds"),
        ("90 s", 90, "seconds"),
        ("3 epochs", 3, "epochs"),
        ("60 s audio", 60, "audio_seconds"),
        ("1k h audio", 3.6e6, "audio_seconds"),
        ("10k min", 6e5, "seconds"),
        ("2k hours", 7.2e6, "seconds"),
    ],
)
def test_reads_what_recipes_write(text: str, value: float, unit: str) -> None:
    assert parse_quantity(text) == Quantity(value, unit)


@pytest.mark.parametrize("text", ["", "20", "tokens", "-5 steps", "3 parsecs", "20M", None, 7, "1e400000 x", "5 %%", "5k%", "1 2 tokens"])
def test_refuses_with_a_sentence(text: object) -> None:
    with pytest.raises(ValueError, match=r"unit|amount"):
        parse_quantity(text)


@given(
    st.floats(min_value=1e-3, max_value=1e18, allow_nan=False),
    st.sampled_from(["tokens", "rows", "steps", "flops", "seconds", "bytes", "fraction", "audio_seconds"]),
)
def test_written_back_it_reads_the_same(value: float, unit: str) -> None:
    again = parse_quantity(str(Quantity(value, unit)))
    assert again.unit == unit
    assert again.value == pytest.approx(value, rel=1e-11)


def test_types_refuse_other_units() -> None:
    assert TypeAdapter(Budget).validate_python("5 steps") == Quantity(5, "steps")
    with pytest.raises(ValidationError, match="wants a global batch"):
        TypeAdapter(Batch).validate_python("5 steps")
    with pytest.raises(ValidationError, match="wants a budget"):
        TypeAdapter(Budget).validate_python("5 GiB")
