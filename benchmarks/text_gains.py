"""What pre-training on technical text gives: SST-2 and TREC after equal fine-tuning, against the same model from scratch.

    python benchmarks/text_gains.py DATA [--tokens 2M] [--seeds 3] [--epochs 3] [--rows 1500] [--width 192] [--depth 4] [--jobs 2] [--small]

For every seed: masked_lm, replaced_token (with a generator) and span_corruption are trained on so many tokens of DATA/text/technical,
and every model, and one of the same shape as initialized, is fine-tuned on DATA/classification_en/{sst2,trec} with the same rows, epochs and
learning rate. Reported: accuracy on the held-out rows, and the gain over from-scratch of the same shape with its 95 % interval over seeds
(Student's t on the paired differences), whatever its sign.

Pre-training is by Muon in batches of 16 rows: a thousand steps in 2M tokens. The same tokens in 250 steps of 64 rows by AdamW end on the
plateau where a model knows how frequent tokens are and no more; fine-tuning from there is worse than from scratch.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import _machine
import torch

import ingot
from ingot.core.recipe import Recipe
from ingot.core.resolve import spec

TASKS = ("sst2", "trec")
KINDS = ("masked_lm", "replaced_token", "span_corruption")


def recipe(data: Path, kind: str, seed: int, given: argparse.Namespace, cache: str) -> Recipe:
    """The run that pre-trains one kind of model."""
    heads = max(2, given.width // 64)
    mixer = {"name": "attention", "heads": heads}
    stack = {"name": "transformer", "depth": given.depth, "mixer": mixer, "feedforward": "gelu", "norm": "rms"}
    decoder = {"decoder": stack | {"depth": max(1, given.depth // 2), "cross": {"name": "cross_attention", "heads": heads}}}
    generator = {
        "name": "replaced_token",
        "generator": stack | {"depth": max(1, given.depth // 2), "mixer": {"name": "attention", "heads": 2}},
        "generator_width": given.width // 4,
    }
    objectives = {"masked_lm": ("masked_lm", {}), "replaced_token": (generator, {}), "span_corruption": ("span_corruption", decoder)}
    objective, further = objectives[kind]
    texts = {"name": "jsonl", "paths": [str(data / "text/technical/train.jsonl.gz")]}
    held = {"name": "jsonl", "paths": [str(data / "text/technical/validation.jsonl.gz")]}
    return Recipe(
        {
            "name": f"{kind}-{seed}",
            "seed": seed,
            "compile": False,
            "data": {
                "train": texts,
                "validation": held,
                "tokenizer": {"name": "bpe", "vocabulary": given.vocabulary, "specials": ["mask", "pad"], "sentinels": 40},
                "sequence": given.sequence,
                "cache": cache,
            },
            "model": {"width": given.width, "embedding": "token", "encoder": stack, "objective": objective} | further,
            "stages": [
                {
                    "budget": f"{given.tokens} tokens",
                    "batch": "16 rows",
                    "optimizer": {
                        "name": "muon",
                        "lr": 0.02,
                        "weight_decay": 0.01,
                        "rest": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01},
                    },
                    "schedule": {"lr": {"name": "cosine", "warmup": "5%"}},
                    "hooks": ["clip"],
                }
            ],
            "evaluate": {"every": "50%", "rows": 64},
        }
    )


def labeled(path: Path, tokenizer: Any, sequence: int, most: int) -> dict[str, torch.Tensor]:
    """Texts and labels of a jsonl file as one batch, an even part of its lines."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = lines[:: max(1, len(lines) // most)][:most]
    tokens = torch.zeros(len(lines), sequence, dtype=torch.int64)
    segments = torch.zeros(len(lines), sequence, dtype=torch.int32)
    for row, ids in enumerate(tokenizer.encode([line["text"] for line in lines])):
        kept = torch.as_tensor(ids[:sequence].astype("int64"))
        tokens[row, : len(kept)], segments[row, : len(kept)] = kept, 1
    positions = torch.arange(sequence).expand(len(lines), -1)
    return {
        "tokens": tokens,
        "segments": segments,
        "positions": positions,
        "rows": torch.arange(len(lines)),
        "key": torch.tensor(0),
        "label": torch.tensor([line["label"] for line in lines]),
    }


def fine_tuned(run: Any, data: Path, given: argparse.Namespace, seed: int) -> dict[str, float]:
    """Accuracy per task; the model is left as it was."""
    evaluator = spec("evaluate", "fine_tune", epochs=given.epochs, batch=32, lr=given.lr, decay=1.0).build(layout=run.layout)
    found = {}
    for task in TASKS:
        learn, judge = (
            labeled(data / f"classification_en/{task}/{split}.jsonl", run.tokenizer, 48, given.rows) for split in ("train", "validation")
        )
        result = evaluator(run.model, windows=[[judge]], training=lambda rows, learn=learn: [[learn]], fields={}, seed=seed)
        found[task] = result["accuracy"]
    return found


def compared(kind: str, seed: int, given: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Accuracies of one model, as initialized and pre-trained."""
    if given.jobs > 1:
        torch.set_num_threads(1)
    run = ingot.build(recipe(given.data.resolve(), kind, seed, given, f"{folder}/cache"), runs=f"{folder}/runs")
    scratch = fine_tuned(run, given.data, given, seed)
    run.train()
    return {"objective": kind, "seed": seed, "from_scratch": scratch, "pre_trained": fine_tuned(run, given.data, given, seed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name, default in (
        ("seeds", 3),
        ("epochs", 3),
        ("rows", 1500),
        ("width", 192),
        ("depth", 4),
        ("sequence", 128),
        ("vocabulary", 8192),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tokens", default="2M", help="that every model is pre-trained on")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--jobs", type=int, default=1, help="models at once, each on one thread")
    parser.add_argument("--small", action="store_true", help="seconds instead of hours: to see that it runs; nothing is written")
    given = parser.parse_args()
    if given.small:
        given.tokens, given.seeds, given.epochs, given.rows, given.width, given.depth, given.vocabulary = 20_000, 1, 1, 64, 32, 1, 512
    results: dict[str, Any] = {
        "settings": {name: value for name, value in vars(given).items() if name != "data"},
        "accuracy": [],
        "gain": {},
    }
    with TemporaryDirectory() as folder, ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(compared, kind, seed, given, folder) for seed in range(given.seeds) for kind in KINDS]
        for job in as_completed(jobs):
            results["accuracy"].append(job.result())
            print(json.dumps(job.result()), flush=True)
    results["accuracy"].sort(key=lambda line: (line["seed"], KINDS.index(line["objective"])))
    for kind in KINDS:
        lines = [line for line in results["accuracy"] if line["objective"] == kind]
        results["gain"][kind] = {
            task: _machine.paired([line["pre_trained"][task] - line["from_scratch"][task] for line in lines]) for task in TASKS
        }
    print(json.dumps(results["gain"])) if given.small else _machine.write("text_gains", results)


if __name__ == "__main__":
    main()
