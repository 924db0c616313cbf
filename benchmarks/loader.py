"""How much of the step rate of cached batches the loader keeps: ``python benchmarks/loader.py``.

A corpus of random bytes is prepared in a temporary folder. A step is a matrix multiplication sized to take about ``--step`` seconds. Steps on
windows kept in memory and steps on windows from the loader alternate, a few at a time, in one process; prints one JSON object with
the rates at the median step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import write

from ingot.core.resolve import spec
from ingot.data.loader import Loader
from ingot.data.open import open_data


def stream_of(folder: Path, sequence: int, size: int) -> Any:
    """Three sources of random words, mixed."""
    draw = np.random.default_rng(0)
    for name in "abc":
        words = draw.integers(97, 123, size=(size // 600, 100, 6), dtype=np.uint8)
        words[:, :, 5] = 32
        (folder / f"{name}.txt").write_bytes(b"\n".join(row.tobytes() for row in words))
    sources = {name: {"name": "text_files", "paths": [f"{name}.txt"], "document": "line"} for name in "abc"}
    mixture = spec("data.source", "mixture", sources=sources, weights={"a": 0.6, "b": 0.3, "c": 0.1})
    return open_data(
        train=mixture,
        tokenizer=spec("data.tokenizer", "bytes"),
        sequence=sequence,
        pack=spec("data.pack", "stream"),
        cache=folder / "cache",
        folder=folder,
        seed=0,
    ).train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--step", type=float, default=0.2, help="seconds of work in a step")
    parser.add_argument("--steps", type=int, default=5, help="steps of one kind before the other")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    weight = torch.randn(1024, 1024)
    start = time.perf_counter()
    for _ in range(5):
        weight @ weight
    repeats = max(1, round(options.step / ((time.perf_counter() - start) / 5)))
    with tempfile.TemporaryDirectory() as place:
        stream = stream_of(Path(place), options.sequence, 20_000_000)
        start = time.perf_counter()
        for row in range(0, 12_800, options.rows):
            stream.batch(row, options.rows)
        alone = (time.perf_counter() - start) / 12_800

        def step(windows: Any) -> float:
            begin = time.perf_counter()
            next(windows)
            for _ in range(repeats):
                weight @ weight
            return time.perf_counter() - begin

        with_args = {"start": 0, "rows_per_step": options.rows, "micro_rows": options.rows}
        cached = cycle(list(islice(Loader(stream, prefetch=0, **with_args), 4)))
        loader = Loader(stream, **with_args)
        seconds: dict[str, list[float]] = {"cached": [], "loader": []}
        for _ in range(options.rounds):
            for name, windows in (("cached", cached), ("loader", loader)):
                seconds[name] += [step(windows) for _ in range(options.steps)]
        loader.close()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    write(
        "loader",
        {
            "microseconds_per_row": alone * 1e6,
            "rows_per_second_alone": 1 / alone,
            "rows_per_second": {name: options.rows / value for name, value in middle.items()},
            "ratio": middle["cached"] / middle["loader"],
        },
    )


if __name__ == "__main__":
    main()
