"""How near preparation comes to bare encoding: ``python benchmarks/prepare.py [--tokenizer tokenizer.json] [--repeats 3]``.

Alternates, in one process, ``tokenizers`` over the batches that preparation would form (texts already in memory, results dropped), by
``encode_batch`` and by ``encode_batch_fast``, with a whole preparation into an empty folder (reading, parsing, encoding, writing,
fsync), the process keeping the memory that it frees, as ``ingot prepare`` does. Two corpora: long documents (books of
../shared/data/text) and short ones (news of classification_en). ``ratio`` is seconds of the faster bare
encoding over those of preparation, medians; 1 means that everything but encoding is hidden. Preparation may pass 1 where it cuts very
long texts, which fill the cores better.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _machine import text_folder, write

from ingot.core.resolve import spec
from ingot.data.prepare import BATCH_BYTES, prepare
from ingot.ops.memory import keep_freed_memory

COPIES = 8  # of the news, each text numbered, so that there are as many bytes of short texts as of long ones, to an order of magnitude
BARE = ("encode_batch", "encode_batch_fast")


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


def short_documents(folder: Path) -> str:
    """A file of short texts, whose path is returned."""
    path = folder / "news.jsonl"
    lines = (text_folder().parent / "classification_en" / "ag_news" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": f"{text} {number}"}) + "\n" for number in range(COPIES) for text in texts)
    return str(path)


def measure(paths: list[str], tokenizer_path: str | None, repeats: int) -> dict[str, Any]:
    """One corpus: seconds of each way, and the ratio."""
    here = Path.cwd()
    shards = spec("data.source", "jsonl", paths=paths).build(folder=here).shards()
    texts = batches(shards)
    if tokenizer_path:
        tokenizer = spec("data.tokenizer", "pretrained", path=tokenizer_path).build(folder=here)
    else:
        tokenizer = spec("data.tokenizer", "bpe", sample="8 MiB").build(texts=lambda: (text for batch in texts for text in batch))

    def bare(name: str) -> Callable[[], None]:
        encode = getattr(tokenizer.inner, name)
        return lambda: [encode(batch, add_special_tokens=False) for batch in texts] and None

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            prepare(shards, tokenizer, folder=Path(folder))

    ways = {name: bare(name) for name in BARE} | {"prepare": whole}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    ways[BARE[0]]()
    for _ in range(repeats):
        for name, way in ways.items():
            runs[name].append(timed(way))
    seconds = {name: [wall for wall, _ in values] for name, values in runs.items()}
    processor = {name: statistics.median(used for _, used in values) for name, values in runs.items()}
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    size, count = sum(len(text.encode()) for batch in texts for text in batch), sum(map(len, texts))
    return {
        "bytes": size,
        "documents": count,
        "bytes_a_document": size / count,
        "shards": len(shards),
        "seconds": seconds,
        "processor_seconds": processor,
        "processor_ratio": min(processor[name] for name in BARE) / processor["prepare"],
        "bytes_per_second": {name: size / value for name, value in middle.items()},
        "faster_bare": min(BARE, key=middle.__getitem__),
        "ratio": min(middle[name] for name in BARE) / middle["prepare"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", help="long documents, jsonl (default: the technical texts)")
    parser.add_argument("--tokenizer", help="tokenizer.json or folder; a byte-level BPE of 8,192 ids is trained without it")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    keep_freed_memory()
    long = options.paths or [str(text_folder() / "technical" / "train.jsonl.gz")]
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: measure(paths, options.tokenizer, options.repeats)
            for name, paths in (("long", long), ("short", [short_documents(Path(folder))]))
        }
    write("prepare", {"cores": os.cpu_count(), "load_before": load, **found})


if __name__ == "__main__":
    main()
