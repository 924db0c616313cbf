"""What pre-training without labels gains on sound: spoken digits of a speaker who was never heard, told apart by a linear probe.

    python benchmarks/speech_gains.py [--budget "20 epochs"] [--seeds 3] [--methods hubert,wav2vec2] [--speakers theo,...] [--layer 3]
        [--limit ROWS] [override ...]

HuBERT (both of its rounds get the budget) and wav2vec 2.0 (twice the budget) are pre-trained on all speakers but one; the probe learns
from the same speakers' labels and is tried on the one left out, once on the model's own features and once on those of a middle layer, from
which HuBERT's second round has its units too. The baseline is the same probe on mel bands: mean and deviation over time
of 80. Seed i leaves out speaker i (of the alphabet), so that the spread is of speakers and seeds together. Reported: accuracies, and the
mean paired difference with its 95 % interval (Student's t over seeds). Results go to benchmarks/results/speech_gains.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _machine import ROOT, paired, text_folder, write

BUCKET, BATCH = 64, "20 s audio"  # clips of similar length together, so that hardly any padding is computed; real seconds, about 45 clips
FILE = "speech/fsdd/train.parquet"


def speakers() -> list[str]:
    """Everyone who is heard, in the order of the alphabet."""
    import pyarrow.parquet

    return sorted(set(pyarrow.parquet.read_table(FILE, columns=["speaker"]).column("speaker").to_pylist()))


def mel_accuracy(speaker: str, limit: int | None) -> float:
    """The probe on what the bands are and how much they move."""
    import torch

    from ingot.core.resolve import spec
    from ingot.evaluate._features import accuracy

    def features(**filters: Any) -> tuple[torch.Tensor, torch.Tensor]:
        source = spec("data.source", "audio_parquet", paths=[FILE], seconds=1.0, mels=80, label="digit", classes=10, **filters).build(
            folder=Path.cwd()
        )
        ids = np.arange(len(source))[:: max(1, len(source) // limit)] if limit else np.arange(len(source))
        found = source.rows(ids, ids)
        values = [
            np.concatenate([row[:length].mean(axis=0), row[:length].std(axis=0)])
            for row, length in zip(found["frames"], found["lengths"], strict=True)
        ]
        return torch.from_numpy(np.stack(values)).double(), torch.from_numpy(found["label"])

    (known, label), (other, wanted) = features(drop={"speaker": [speaker]}), features(keep={"speaker": [speaker]})
    mean, std = known.mean(dim=0), known.std(dim=0).clamp(min=1e-8)
    known, other = (known - mean) / std, (other - mean) / std
    probe = spec("evaluate", "linear_probe").build(layout=None)
    weight = probe.solved(known, label, 10, probe._chosen(known, label, 10))
    return accuracy((other @ weight[:, :-1].T + weight[:, -1]).argmax(dim=1), wanted)


def probed(
    method: str, seed: int, speaker: str, budget: str, layer: int, given: list[str], limit: int | None, folder: Path
) -> dict[str, float]:
    """Pre-train without the speaker, then the probe's accuracy on him, by what it reads."""
    import ingot

    number, _, unit = budget.partition(" ")
    budgets = (
        [f"stages.0.budget={budget}", f"stages.1.budget={budget}"]
        if method == "hubert"
        else [f"stages.0.budget={2 * float(number):g} {unit}"]
    )
    rows = limit or 100_000
    recipe = ingot.load_recipe(
        ROOT / f"recipes/speech/{method}_tiny.yaml",
        [
            f"seed={seed}",
            f"name={method}{seed}",
            *budgets,
            *[f"stages.{index}.batch={BATCH}" for index in range(len(budgets))],
            f"data.train.paths=[{FILE}]",
            f"data.validation.paths=[{FILE}]",
            f"data.train.drop={{speaker: [{speaker}]}}",
            f"data.validation.keep={{speaker: [{speaker}]}}",
            "evaluate.every=100%",
            "evaluate.also=[]",
            "evaluate.rows=64",
            f"evaluate.training_rows={rows}",
            f"data.cache={folder / 'cache'}",
            f"data.bucket={BUCKET}",
            *given,
        ],
    )
    run = ingot.build(recipe, runs=folder)
    run.train()
    from ingot.core.resolve import spec

    def accuracy(**knobs: Any) -> float:
        found = run.evaluate(rows=rows, also=[spec("evaluate", "linear_probe", **knobs)])
        return float(next(iter(found.values()))["linear_probe.accuracy"])

    return {method: accuracy(), f"{method}, layer {layer}": accuracy(layer=layer)}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--budget", default="20 epochs")
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--methods", default="hubert,wav2vec2")
    asked.add_argument("--speakers")
    asked.add_argument("--layer", type=int, default=3, help="the middle layer that is probed too")
    asked.add_argument("--limit", type=int, help="so many rows for probes, to try it out")
    asked.add_argument("--name", default="speech_gains")
    asked.add_argument("overrides", nargs="*", help="changes of both recipes")
    options = asked.parse_args()
    os.chdir(text_folder().parent)
    left_out = options.speakers.split(",") if options.speakers else speakers()
    found: dict[str, list[float]] = {"log_mel": []}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        for seed in range(options.seeds):
            speaker = left_out[seed % len(left_out)]
            found["log_mel"].append(mel_accuracy(speaker, options.limit))
            print("log_mel", speaker, found["log_mel"][-1], flush=True)
            for method in options.methods.split(","):
                results = probed(method, seed, speaker, options.budget, options.layer, options.overrides, options.limit, Path(place))
                print(speaker, results, flush=True)
                for name, value in results.items():
                    found.setdefault(name, []).append(value)
    gains = {
        method: paired([a - b for a, b in zip(values, found["log_mel"], strict=True)])
        for method, values in found.items()
        if method != "log_mel"
    }
    write(
        options.name,
        {
            "seconds": time.perf_counter() - began,
            "budget": options.budget,
            "batch": BATCH,
            "overrides": options.overrides,
            "speakers": [left_out[seed % len(left_out)] for seed in range(options.seeds)],
            "accuracy": found,
            "gain": gains,
        },
    )


if __name__ == "__main__":
    main()
