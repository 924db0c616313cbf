"""What reading the data leaves of a run's rate: packed documents of three sources beside batches that lie ready in memory.

    python benchmarks/loader.py [--pairs 100] [override ...]

recipes/text/gpt_tiny.yaml on a mixture of technical texts, fiction and Python code: steps on the loader's windows and on four kept
ones in turn, in one process, so that the machine's moods fall on both. Beside it how long a row takes to read alone. Results go to
benchmarks/results/loader.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from _cached import of_cached
from _machine import ROOT, text_folder, write


def main() -> None:
    import ingot
    from ingot.ops.memory import keep_freed_memory

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="of a step on the loader's windows and one on kept ones")
    parser.add_argument("overrides", nargs="*", help="changes of the recipe")
    options = parser.parse_args()
    keep_freed_memory()
    load = os.getloadavg()[0]
    kinds = {"technical": 0.5, "fiction": 0.3, "code_python": 0.2}
    sources = {kind: {"name": "jsonl", "paths": [str(text_folder() / kind / "train.jsonl.gz")]} for kind in kinds}
    with tempfile.TemporaryDirectory() as place:
        overrides = [
            f"data.train={json.dumps({'name': 'mixture', 'sources': sources, 'weights': kinds})}",
            f"data.cache={place}/cache",
            "compile=false",
            "evaluate.prompts=[]",
            *options.overrides,
        ]
        run = ingot.build(ingot.load_recipe(ROOT / "recipes/text/gpt_tiny.yaml", overrides), runs=Path(place))
        stream = run.data_of(0).train
        began = time.perf_counter()
        for row in range(0, 12_800, 32):
            stream.batch(row, 32)
        alone = (time.perf_counter() - began) / 12_800
        found = of_cached(run, options.pairs)
    write("loader", {"load_before": load, "overrides": options.overrides, "microseconds_per_row_alone": alone * 1e6, **found})


if __name__ == "__main__":
    main()
