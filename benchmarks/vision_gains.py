"""What pre-training without labels gains on few labels: masked patches and SimCLR against from scratch, on the CIFAR-10 subset.

    python benchmarks/vision_gains.py [--methods mae,simclr] [--pretrain mae=80,simclr=20] [--finetune 0.01=400,0.1=800] [--seeds 3] [--patch 8]

Each seed pre-trains once per method on all training images, then a classifier is fine-tuned on a share of the labels: another stratified
draw for every seed, the same for all arms, as are model, steps, batch and augmentation. Each arm's learning rate is the best of three,
tried with the first seed on training images outside the share. Reported: accuracy on the test rows, per seed; the mean paired
difference to from scratch with its 95 % interval (Student's t over seeds). Results go to benchmarks/results/vision_gains.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import ROOT, paired, text_folder, write

RECIPES = {"mae": "recipes/vision/mae_tiny.yaml", "simclr": "recipes/vision/simclr_tiny.yaml"}
RATES = (3e-4, 1e-3, 3e-3)
BATCH = 64


def pretrained(method: str, seed: int, epochs: float, patch: int, folder: Path) -> Any:
    """A trained Run of a method, with a class token, so that all arms share one shape."""
    import ingot

    overrides = [f"seed={seed}", f"stages.0.budget={epochs:g} epochs", "evaluate.also=[]", "evaluate.rows=64", "evaluate.every=100%"]
    overrides += [f"model.embedding.patch={patch}", "model.embedding.class_token=true", f"name={method}{seed}"]
    recipe = ingot.load_recipe(ROOT / RECIPES[method], overrides)
    run = ingot.build(recipe, runs=folder)
    run.train()
    return run


def drawn(share: float, seed: int, folder: Path) -> tuple[Path, Path]:
    """Files of a stratified share of the training images, and of 2,000 others to choose by."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    learn, choose = folder / f"learn_{share:g}_{seed}.parquet", folder / f"choose_{share:g}_{seed}.parquet"
    if not learn.exists():
        table = pq.read_table("cifar10/train.parquet")
        label, draw = table.column("label").to_numpy(), np.random.default_rng(seed)
        order = [draw.permutation(np.flatnonzero(label == one)) for one in np.unique(label)]
        counts = [round(len(rows) * share) for rows in order]
        for path, parts in (
            (learn, [rows[:n] for rows, n in zip(order, counts, strict=True)]),
            (choose, [rows[-200:] for rows in order]),
        ):
            pq.write_table(table.take(pa.array(draw.permutation(np.concatenate(parts)))), path, row_group_size=256)
    return learn, choose


def finetuned(source: Any, rate: float, seed: int, steps: int, patch: int, files: tuple[Path, str], folder: Path) -> float:
    """Accuracy on the second file of a classifier whose embedding and encoder start as those of a run, or afresh."""
    import ingot

    name = f"{source.section.name if source else 'scratch'}-{files[0].stem}-{rate:g}-{Path(files[1]).stem}"
    overrides = [
        f"seed={seed}",
        f"stages.0.budget={steps} steps",
        f"stages.0.batch={BATCH} images",
        f"stages.0.optimizer.lr={rate}",
        f"data.train.paths=[{files[0]}]",
        f"data.validation.paths=[{files[1]}]",
        f"model.embedding.patch={patch}",
        "model.embedding.class_token=true",
        "evaluate.also=[]",
        "evaluate.every=100%",
        "evaluate.rows=32",
        f"name={name}",
    ]
    run = ingot.build(ingot.load_recipe(ROOT / "recipes/vision/vit_tiny.yaml", overrides), runs=folder)
    if source is not None:
        for part in ("embedding", "encoder"):
            getattr(run.model, part).load_state_dict(getattr(source.model, part).state_dict())
    run.train()
    return float(next(iter(run.evaluate().values()))["accuracy"])


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--methods", default="mae,simclr")
    asked.add_argument("--pretrain", default="mae=80,simclr=20", help="epochs of the 20,000 images")
    asked.add_argument("--finetune", default="0.01=400,0.1=800", help=f"steps of {BATCH} images for every share of the labels")
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--patch", type=int, default=8, help="pixels; the recipes' 4 cost four times as much")
    asked.add_argument("--name", default="vision_gains")
    options = asked.parse_args()
    epochs = {name: float(value) for name, _, value in (item.partition("=") for item in options.pretrain.split(","))}
    budgets = {float(share): int(steps) for share, _, steps in (item.partition("=") for item in options.finetune.split(","))}
    arms = [*options.methods.split(","), "scratch"]
    os.chdir(text_folder().parent / "images")
    chosen: dict[str, Any] = {}
    accuracy: dict[str, dict[str, list[float]]] = {f"{share:.0%} of labels": {arm: [] for arm in arms} for share in budgets}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for seed in range(options.seeds):
            for arm in arms:
                source = None if arm == "scratch" else pretrained(arm, seed, epochs[arm], options.patch, folder)
                for share, steps in budgets.items():
                    learn, choose = drawn(share, seed, folder)
                    key = f"{arm}, {share:.0%} of labels"
                    if key not in chosen:
                        tried = {rate: finetuned(source, rate, seed, steps, options.patch, (learn, str(choose)), folder) for rate in RATES}
                        chosen[key] = {"rate": max(tried, key=lambda rate: tried[rate]), "tried": tried}
                        print(key, chosen[key], flush=True)
                    rate, test = chosen[key]["rate"], (learn, "cifar10/test.parquet")
                    found = finetuned(source, rate, seed, steps, options.patch, test, folder)
                    accuracy[f"{share:.0%} of labels"][arm].append(found)
                    print(key, "seed", seed, found, f"{time.perf_counter() - began:.0f} s", flush=True)
    gains = {
        share: {
            arm: paired([a - b for a, b in zip(values, found["scratch"], strict=True)]) for arm, values in found.items() if arm != "scratch"
        }
        for share, found in accuracy.items()
    }
    settings = {"pretrain_epochs": epochs, "finetune_steps": budgets, "batch": BATCH, "patch": options.patch, "rates": chosen}
    write(options.name, {"seconds": time.perf_counter() - began, **settings, "accuracy": accuracy, "gain": gains})


if __name__ == "__main__":
    main()
