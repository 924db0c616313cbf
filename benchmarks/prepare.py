"""How near preparation comes to bare encoding: ``python benchmarks/prepare.py FILE.jsonl[.gz] ... [--tokenizer tokenizer.json]``.

Alternates, in one process, ``tokenizers.Tokenizer.encode_batch`` over the batches that preparation would form (texts already in
memory, results dropped) with a whole preparation into an empty folder (reading, parsing, encoding, writing, fsync). Prints one JSON
object; ``ratio`` is bare seconds over preparation seconds, medians; 1 means that everything but encoding is hidden.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import write

from ingot.core.resolve import spec
from ingot.data.prepare import BATCH_BYTES, prepare


def batches(shards: list[Any]) -> list[list[str]]:
    """The texts as preparation groups them."""
    result: list[list[str]] = []
    for shard in shards:
        size = BATCH_BYTES
        for document in shard.read():
            if size >= BATCH_BYTES:
                result.append([])
                size = 0
            result[-1].append(document.text)
            size += len(document.text.encode())
    return result


def timed(action: Any) -> tuple[float, float]:
    """Seconds and processor seconds (all threads) of a call; the second hardly depends on what else the machine does."""
    start, used = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--tokenizer", help="tokenizer.json or folder; a byte-level BPE of 8,192 ids is trained without it")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    here = Path.cwd()
    shards = spec("data.source", "jsonl", paths=options.paths).build(folder=here).shards()
    texts = batches(shards)
    if options.tokenizer:
        tokenizer = spec("data.tokenizer", "pretrained", path=options.tokenizer).build(folder=here)
    else:
        tokenizer = spec("data.tokenizer", "bpe", sample="8 MiB").build(texts=lambda: (text for batch in texts for text in batch))

    def bare() -> None:
        for batch in texts:
            tokenizer.inner.encode_batch(batch, add_special_tokens=False)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            prepare(shards, tokenizer, folder=Path(folder))

    runs: dict[str, list[tuple[float, float]]] = {"encode_batch": [], "prepare": []}
    bare()
    for _ in range(options.repeats):
        runs["encode_batch"].append(timed(bare))
        runs["prepare"].append(timed(whole))
    seconds = {name: [wall for wall, _ in values] for name, values in runs.items()}
    processor = {name: statistics.median(used for _, used in values) for name, values in runs.items()}
    size = sum(len(text.encode()) for batch in texts for text in batch)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    write(
        "prepare",
        {
            "bytes": size,
            "documents": sum(map(len, texts)),
            "shards": len(shards),
            "cores": os.cpu_count(),
            "seconds": seconds,
            "processor_seconds": processor,
            "processor_ratio": processor["encode_batch"] / processor["prepare"],
            "bytes_per_second": {name: size / value for name, value in middle.items()},
            "ratio": middle["encode_batch"] / middle["prepare"],
        },
    )


if __name__ == "__main__":
    main()
