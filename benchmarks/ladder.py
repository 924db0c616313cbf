"""A ladder on real text: seven sizes over two decades of compute, the largest held out and predicted. Under an hour on two cores.

    python benchmarks/ladder.py           the whole ladder; killed, it goes on with the same command
    python benchmarks/ladder.py --tiny    the tiny form: shows only that it runs, writes no result

The text is fiction, technical writing and code, as bytes; 24 to 88 wide, 4 deep, 20 tokens for every parameter that is no embedding, the
learning rate tuned at width 32 and carried by the maximal update parametrization. The law has three constants: L = E + A C^-alpha.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from _machine import ROOT, text_folder, write

from ingot.race.ladder import climb, read_ladder

LIMIT = 3600.0  # seconds


def sources(folder: Path) -> list[str]:
    return [str(folder / name / "train.jsonl.gz") for name in ("fiction", "technical", "code_python")]


def main() -> None:
    tiny = "--tiny" in sys.argv[1:]
    source: dict[str, Any] = {"name": "jsonl", "paths": sources(text_folder())}
    ladder = read_ladder(ROOT / "ladders" / "text.yaml", [f"set={{data: {{train: {source}}}}}"], tiny=tiny)
    folder = Path(tempfile.mkdtemp()) if tiny else ROOT / "runs" / "ladders"
    answer = climb(ladder, folder=folder, jobs=2)
    held = answer["held_out"]
    worst = max(abs(one["error"]) for one in held)
    # Runs side by side share the machine, so that the hour is judged by their seconds over the two of them; a resumed ladder counts in full.
    seconds = max(answer["seconds"], answer["training_seconds"] / answer["jobs"])
    results = {
        "seconds": seconds,
        "within_an_hour": seconds < LIMIT,
        "sizes": answer["sizes"],
        "decades": answer["decades"],
        "law": answer["law"],
        "estimates": answer["estimates"],
        "held_out": held,
        "worst_error": worst,
        "within_1_percent": worst < 0.01,
        "inside_interval": all(one["inside"] for one in held),
        "rungs": answer["rows"],
    }
    if tiny:
        print(results)
    else:
        write("ladder", results)


if __name__ == "__main__":
    main()
