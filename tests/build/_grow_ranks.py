"""One rank of test_grow.py: a recipe under replicate and under fsdp.   python _grow_ranks.py FOLDER

FOLDER holds recipe.json and the corpus. Rank 0 leaves FOLDER/LAYOUT.safetensors: whole weights and optimizer state at the end.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import ingot
import ingot.ledger.machine
from ingot.core.recipe import Recipe
from ingot.parallel.start import leave


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ingot.ledger.machine.ROWS = ingot.ledger.machine.WIDTH = 64  # the machine's speed does not matter here
    os.chdir(folder)
    tree = json.loads((folder / "recipe.json").read_text())
    for layout in ("replicate", "fsdp"):
        run = ingot.build(Recipe(tree | {"layout": layout}), runs=folder / layout)
        states = []
        inner = run.state
        run.state = lambda path=None, inner=inner, states=states: states.append(inner(path)) or states[-1]
        run.train()
        found = states[0].whole()
        if run.layout.rank == 0:
            save_file({name: value.clone() for name, value in found.items()}, folder / f"{layout}.safetensors")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
