"""What pre-training without labels gains on few labels: masked patches and SimCLR against from scratch, on the CIFAR-10 subset.

    python benchmarks/vision_gains.py [--pretrain "40 epochs"] [--finetune "1500 steps"] [--seeds 3] [--shares 0.01,0.1] [--methods mae,simclr]

Each seed pre-trains once per method on all training images, then a classifier is fine-tuned on a share of the labels, with the same
model, steps, batch and learning rate as from scratch. Reported: accuracy on the test rows, per seed; the mean paired difference to from
scratch with its 95 % interval (Student's t over seeds). Results go to benchmarks/results/vision_gains.json.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _machine import ROOT, text_folder, write

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
RECIPES = {"mae": "recipes/vision/mae_tiny.yaml", "simclr": "recipes/vision/simclr_tiny.yaml"}
LABELED = 20_000


def interval(differences: list[float]) -> dict[str, Any]:
    """Mean and half width of its 95 % interval."""
    half = (
        T95.get(len(differences), 1.96) * statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    )
    return {"mean": statistics.mean(differences), "half_width_95": half, "seeds": differences}


def pretrained(method: str, seed: int, budget: str, folder: Path) -> Any:
    """A trained Run of a method."""
    import ingot

    recipe = ingot.load_recipe(
        ROOT / RECIPES[method],
        overrides=[f"seed={seed}", f"stages.0.budget={budget}", "evaluate.also=[]", "evaluate.rows=64", f"name={method}{seed}"],
    )
    run = ingot.build(recipe, runs=folder)
    run.train()
    return run


def finetuned(source: Any, class_token: bool, seed: int, share: float, budget: str, rows: int, folder: Path) -> float:
    """Test accuracy of a classifier whose embedding and encoder start as those of a run, or afresh."""
    import ingot

    name = f"{source.section.name if source else 'scratch'}-{'token' if class_token else 'plain'}-{share:g}-{seed}"
    overrides = [
        f"seed={seed}",
        f"stages.0.budget={budget}",
        f"data.train.rows={round(LABELED * share)}",
        "evaluate.also=[]",
        "evaluate.every=100%",
        f"evaluate.rows={rows}",
        f"model.embedding.class_token={str(class_token).lower()}",
        f"name={name}",
    ]
    run = ingot.build(ingot.load_recipe(ROOT / "recipes/vision/vit_tiny.yaml", overrides=overrides), runs=folder)
    if source is not None:
        for part in ("embedding", "encoder"):
            getattr(run.model, part).load_state_dict(getattr(source.model, part).state_dict())
    run.train()
    return float(next(iter(run.evaluate(rows=rows).values()))["accuracy"])


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--pretrain", default="40 epochs")
    asked.add_argument("--finetune", default="1500 steps")
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--shares", default="0.01,0.1")
    asked.add_argument("--methods", default="mae,simclr")
    asked.add_argument("--rows", type=int, default=4000)
    asked.add_argument("--name", default="vision_gains")
    options = asked.parse_args()
    os.chdir(text_folder().parent / "images")
    shares, methods = [float(share) for share in options.shares.split(",")], options.methods.split(",")
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(options.seeds):
            for method in methods:
                source = pretrained(method, seed, options.pretrain, Path(place))
                token = method == "mae"
                for share in shares:
                    key = f"{method}, {share:.0%} of labels"
                    pair = [
                        finetuned(start, token, seed, share, options.finetune, options.rows, Path(place) / method)
                        for start in (source, None)
                    ]
                    entry = found.setdefault(key, {"pretrained": [], "scratch": []})
                    entry["pretrained"].append(pair[0])
                    entry["scratch"].append(pair[1])
                    print(key, "seed", seed, pair, flush=True)
    gains = {
        key: entry | {"gain": interval([a - b for a, b in zip(entry["pretrained"], entry["scratch"], strict=True)])}
        for key, entry in found.items()
    }
    write(options.name, {"pretrain": options.pretrain, "finetune": options.finetune, "accuracy": gains})


if __name__ == "__main__":
    main()
