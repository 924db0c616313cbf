"""Retrieval of emoji over concepts that were never trained on: CLIP and SigLIP against chance and against matching keywords.

    python benchmarks/image_text_gains.py [--budget "40 epochs"] [--seeds 3] [--recipes clip_emoji,siglip_emoji]

R@1 and R@10 both ways over all validation rows, hits counted by concept. The keyword baseline sees no picture: a caption and a picture
match by how many of the caption's words are among the keywords that people gave the picture, rarer words counting more (inverse document
frequency over the rows); of rows that tie, all orders are averaged. Results go to benchmarks/results/image_text_gains.json.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from _machine import ROOT, text_folder, write


def words(text: Any) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", " ".join(text).lower() if isinstance(text, list) else str(text).lower()))


def expected_hit(scores: list[float], hits: list[bool], k: int) -> float:
    """Probability of a hit among the k best, over all orders of those that tie."""
    kth = sorted(scores, reverse=True)[min(k, len(scores)) - 1]
    if any(hit and score > kth for score, hit in zip(scores, hits, strict=True)):
        return 1.0
    above = sum(score > kth for score in scores)
    tied = [hit for score, hit in zip(scores, hits, strict=True) if score == kth]
    miss, places = 1.0, k - above
    for index in range(places):
        miss *= max(0.0, (len(tied) - sum(tied) - index) / (len(tied) - index))
    return 1 - miss


def keyword_baseline(path: Path) -> dict[str, float]:
    """R@k of words against keywords."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["caption", "keywords", "concept"]).to_pydict()
    captions, keywords, concepts = [words(item) for item in table["caption"]], [words(item) for item in table["keywords"]], table["concept"]
    count = Counter(word for found in keywords for word in found)
    weight = {word: math.log(len(keywords) / number) + 1e-3 for word, number in count.items()}
    scores = [[sum(weight[word] for word in caption & found) for found in keywords] for caption in captions]  # caption -> picture
    result = {}
    for name, rows in (("backward", scores), ("forward", [list(column) for column in zip(*scores, strict=True)])):
        for k in (1, 10):
            result[f"{name}_R@{k}"] = statistics.mean(
                expected_hit(row, [concept == own for concept in concepts], k) for row, own in zip(rows, concepts, strict=True)
            )
    return result


def trained(recipe: str, seed: int, budget: str, folder: Path) -> dict[str, float]:
    """What retrieval finds at the end of a run."""
    import ingot

    overrides = [
        f"seed={seed}",
        f"stages.0.budget={budget}",
        "evaluate.every=100%",
        f"data.cache={folder / 'cache'}",
        f"name={recipe}{seed}",
    ]
    run = ingot.build(ingot.load_recipe(ROOT / f"recipes/image_text/{recipe}.yaml", overrides=overrides), runs=folder)
    run.train()
    found = next(iter(run.evaluate().values()))
    return {key.removeprefix("retrieval."): value for key, value in found.items() if key.startswith("retrieval.")}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--budget", default="40 epochs")
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--recipes", default="clip_emoji,siglip_emoji")
    asked.add_argument("--name", default="image_text_gains")
    options = asked.parse_args()
    os.chdir(text_folder().parent / "images")
    results: dict[str, Any] = {"budget": options.budget, "keywords": keyword_baseline(Path("emoji/validation.parquet"))}
    with tempfile.TemporaryDirectory() as place:
        for recipe in options.recipes.split(","):
            runs = [trained(recipe, seed, options.budget, Path(place)) for seed in range(options.seeds)]
            results[recipe] = {
                metric: {"mean": statistics.mean(run[metric] for run in runs), "seeds": [run[metric] for run in runs]} for metric in runs[0]
            }
            print(recipe, results[recipe], flush=True)
    write(options.name, results)


if __name__ == "__main__":
    main()
