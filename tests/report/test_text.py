"""Numbers and recipes as the page shows them."""

from __future__ import annotations

import re

import pytest

from ingot.report.text import count, duration, moment, recipe_lines, safe, size


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "", "–"),
        (12, "", "12"),
        (4000, "", "4,000"),
        (1.24e6, "", "1.24 M"),
        (3.28e10, "", "32.8 B"),
        (3.5e15, "FLOP", "3.5 PFLOP"),
        (2e9, "FLOP", "2 GFLOP"),
        (5, "FLOP", "5 FLOP"),
    ],
)
def test_counts(value: float | None, unit: str, text: str) -> None:
    assert count(value, unit) == text


def test_times_and_sizes() -> None:
    assert [duration(value) for value in (None, 42, 185, 7620, 273600)] == ["–", "42 s", "3 min 05 s", "2 h 07 min", "3 d 4 h"]
    assert [size(value) for value in (None, 512, 1536, 3 * 2**30)] == ["–", "512 B", "1.5 KiB", "3 GiB"]
    assert moment(0) == "1970-01-01 00:00 UTC"
    assert moment("<now>") == "&lt;now&gt;"


def test_a_recipe_is_marked_up_and_stays_readable_as_text() -> None:
    recipe = "# a <comment>\nname: demo\ndata:\n  paths: [a/]\n  rate: 3e-4\nstages:\n- budget: 20M tokens\n  on: true\n- - 0.9\n"
    marked = recipe_lines(recipe)
    assert '<b class="k">budget</b>:' in marked
    assert '<span class="n">3e-4</span>' in marked
    assert '<span class="w">true</span>' in marked
    plain = re.sub(r"<[^>]*>", "", marked)
    assert plain == safe(recipe.rstrip()).replace("&quot;", '"')
