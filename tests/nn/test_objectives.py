"""What a layer cannot serve is refused under every objective of a run, those inside of others and of later stages too."""

from __future__ import annotations

from typing import Any

import pytest

from ingot.build.check import check
from ingot.core.resolve import spec
from ingot.nn.objectives import inside, looks_back

SOFT = {"feedforward": {"name": "moe", "experts": 2, "router": "soft"}}
WRAPPED: list[Any] = [
    "causal_lm",
    {"name": "weighted", "objectives": {"a": {"name": "masked_lm"}, "b": "causal_lm"}},
    {"name": "nested", "depths": [1]},
    {"name": "span_corruption", "form": "causal", "sentinels": [3, 4, 5]},
]


def said(tiny_recipe: Any, *patches: dict[str, Any]) -> str:
    return "\n".join(problem.message for problem in check(tiny_recipe(*patches))[1])


@pytest.mark.parametrize("objective", WRAPPED)
@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (SOFT, "soft mixes all positions"),
        ({"feedforward": SOFT["feedforward"] | {"router": "expert_choice"}}, "shows later positions"),
        ({"mixer": "mlp_mixing"}, "wants one that does not look ahead"),
    ],
)
def test_what_looks_ahead(tiny_recipe: Any, objective: Any, encoder: dict[str, Any], words: str) -> None:
    assert words in said(tiny_recipe, {"data": {"pack": "document"}, "model": {"objective": objective, "encoder": encoder}})
    later = {"stages": {0: {"objective": objective}}}
    assert words in said(tiny_recipe, {"data": {"pack": "document"}, "model": {"objective": "masked_lm", "encoder": encoder}}, later)
    assert words not in said(tiny_recipe, {"data": {"pack": "document"}, "model": {"objective": "masked_lm", "encoder": encoder}})


@pytest.mark.parametrize("objective", WRAPPED)
def test_a_narrower_table_under_a_tied_head(tiny_recipe: Any, objective: Any) -> None:
    assert "tied head of" in said(tiny_recipe, {"model": {"objective": objective, "embedding": {"name": "token", "inner": 8}}})


def test_which_look_back() -> None:
    found = inside(spec("objective", "weighted", objectives={"a": "causal_lm", "b": {"name": "nested", "objective": "masked_lm"}}))
    assert [(item.name, looks_back(item)) for item in found] == [
        ("weighted", False),
        ("causal_lm", True),
        ("nested", False),
        ("masked_lm", False),
    ]
