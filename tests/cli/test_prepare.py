"""``ingot prepare``: every stage's data, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main


def test_a_first_stage_on_data_of_its_own_keeps_nothing_back(tiny_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stages that read the same data prepare it once."""
    own = {"train": {"name": "text_files", "paths": ["left"]}, "tokenizer": "bytes", "sequence": 16}
    stage = {"budget": "1 steps", "batch": "4 rows", "optimizer": {"name": "adamw", "lr": 0.001}}
    tree = tiny_recipe({"data": {"train": None, "holdout": 0.0}, "stages": [stage | {"data": own}, stage, stage]}).tree
    tree["data"]["train"] = {"name": "text_files", "paths": ["right"]}
    Path("recipe.yaml").write_text(json.dumps(tree))  # JSON is YAML
    assert main(["prepare", "recipe.yaml", "--json"]) == 0
    assert [one["stage"] for one in json.loads(capsys.readouterr().out)["stores"]] == [0, 1]
    names = {json.loads(path.read_text())["name"].split("/")[-2] for path in (tmp_path / ".ingot").rglob("meta.json")}
    assert names == {"left", "right"}
