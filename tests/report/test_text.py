"""Moments and recipes as the page shows them."""

from __future__ import annotations

import re

from ingot.report.text import moment, recipe_lines, safe


def test_moments() -> None:
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
