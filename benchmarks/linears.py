"""Milliseconds of forward and backward through each linear beside dense, over shapes of a transformer's projections.

    python benchmarks/linears.py [--rounds 15] [--positions 4096] [--widths 256,768,2048] [--dtype bf16] [--device cpu] [--threads N]
    python benchmarks/linears.py --table          only write the table of docs/linears.md anew, from the last results

Linears take turns within each round, so that other work on the machine touches all alike; the ratio to dense is the median over rounds
of the ratio within a round. Widths may be measured one at a time: shapes of the same settings are kept. FLOPs are those the ledger's counter sees. Results go to benchmarks/results/linears.json and docs/linears.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from typing import Any

import torch
from _machine import ROOT, write
from torch import Tensor, nn

DOCS = ROOT / "docs" / "linears.md"
MARK = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.S)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def choices(inputs: int, outputs: int) -> dict[str, dict[str, Any]]:
    """What is measured, as knobs by label: ranks as shares of the smaller side."""
    side = min(inputs, outputs)
    return {
        "dense": {"name": "dense"},
        "low_rank, rank 1/8": {"name": "low_rank", "rank": side // 8, "start": "scaled"},
        "low_rank, rank 1/4": {"name": "low_rank", "rank": side // 4, "start": "scaled"},
        "sltrain, rank 1/8, 3 %": {"name": "sltrain", "rank": side // 8},
        "relora, rank 1/8": {"name": "relora", "rank": side // 8},
        "monarch, 4 blocks": {"name": "monarch", "blocks": 4},
        "monarch, 8 blocks": {"name": "monarch", "blocks": 8},
        "static_sparse, 75 %": {"name": "static_sparse"},
        "sparse24": {"name": "sparse24"},
        "sparse24, unbiased": {"name": "sparse24", "unbiased": True},
        "ternary": {"name": "ternary"},
        "quantized, e4m3": {"name": "quantized"},
        "quantized, int8": {"name": "quantized", "format": "int8"},
    }


def shapes(widths: list[int]) -> list[tuple[int, int]]:
    """(inputs, outputs) of a block's projections: square, up, down."""
    return [shape for width in widths for shape in ((width, width), (width, 4 * width), (4 * width, width))]


class Timed:
    """One linear and its input; a call is one forward and backward."""

    def __init__(self, knobs: dict[str, Any], inputs: int, outputs: int, given: argparse.Namespace):
        from ingot.core.resolve import spec

        named = dict(knobs)
        with torch.device(given.device):
            self.layer: nn.Module = spec("nn.linear", named.pop("name"), **named).build(
                inputs=inputs, outputs=outputs, bias=False, axes=("hidden", "width"), role="matrix"
            )
            self.x = torch.randn(given.positions, inputs, dtype=DTYPES[given.dtype], requires_grad=True)
            self.g = torch.randn(given.positions, outputs, dtype=DTYPES[given.dtype])
        self.seconds: list[float] = []

    def __call__(self) -> None:
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        self.layer(self.x).backward(self.g)

    def measure(self) -> None:
        synchronize(self.x)
        began = time.perf_counter()
        self()
        synchronize(self.x)
        self.seconds.append(time.perf_counter() - began)

    def flops(self) -> int:
        """Of one forward and backward, as the ledger counts them."""
        from ingot.ledger.flops import FlopCount

        with FlopCount() as count:
            self()
        return count.total + count.recomputed

    def trained(self) -> int:
        return sum(weight.numel() for weight in self.layer.parameters() if weight.requires_grad)


def synchronize(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize()


def measure(inputs: int, outputs: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Every linear at one shape, by label."""
    from ingot.ops.memory import keep_freed_memory

    keep_freed_memory()
    timed = {label: Timed(knobs, inputs, outputs, given) for label, knobs in choices(inputs, outputs).items()}
    flops = {label: item.flops() for label, item in timed.items()}
    for turn in range(given.rounds + 1):
        for item in timed.values():
            item.measure()
            if turn == 0:
                item.seconds.clear()  # the first call chooses kernels
    dense = timed["dense"].seconds
    return {
        label: {
            "milliseconds": 1e3 * statistics.median(item.seconds),
            "ratio": statistics.median(mine / base for mine, base in zip(item.seconds, dense)),
            "ratio_low": min(mine / base for mine, base in zip(item.seconds, dense)),
            "ratio_high": max(mine / base for mine, base in zip(item.seconds, dense)),
            "rounds": given.rounds,
            "flops_ratio": flops[label] / flops["dense"],
            "trained_ratio": item.trained() / timed["dense"].trained(),
        }
        for label, item in timed.items()
    }


def table(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    machine, given = found["machine"], found["settings"]
    names = list(found["shapes"])
    counts = sorted({cell["rounds"] for shape in found["shapes"].values() for cell in shape.values()})
    rounds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    said = machine.get("cpu") if given["device"] == "cpu" else machine.get("device")
    lines = [
        f"Measured {found['time'][:10]} on {said} ({given['threads']} threads), {given['dtype']}, {given['positions']} positions, median of {rounds} rounds.",
        "Time of forward and backward as a multiple of dense at the same shape (inputs x outputs); in parentheses the arithmetic, likewise.",
        "",
        "| linear | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for label in next(iter(found["shapes"].values())):
        cells = [found["shapes"][name][label] for name in names]
        lines.append(f"| {label} | " + " | ".join(f"{cell['ratio']:.2f} ({cell['flops_ratio']:.2f})" for cell in cells) + " |")
    faster = {
        label: [name for name in names if found["shapes"][name][label]["ratio_high"] < 1]
        for label in next(iter(found["shapes"].values()))
        if label != "dense"
    }
    lines += ["", "Faster than dense in every round:", ""]
    lines += [f"- {label}: {', '.join(where)}" for label, where in faster.items() if where] or ["- none, at no shape"]
    never = [label for label, where in faster.items() if not where]
    lines += ["", f"At no shape: {', '.join(never)}." if never else "", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--positions", type=int, default=4096)
    parser.add_argument("--widths", default="256,768,2048")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true", help="only write the page anew from the last results")
    parser.add_argument("--dry", action="store_true", help="print, and leave results and page as they are")
    given = parser.parse_args()
    results = ROOT / "benchmarks" / "results" / "linears.json"
    if not given.table:
        torch.set_num_threads(given.threads)
        found: dict[str, Any] = {
            "settings": {key: value for key, value in vars(given).items() if key not in ("table", "dry", "widths", "rounds")}
        }
        found["shapes"] = {
            f"{inputs} x {outputs}": measure(inputs, outputs, given)
            for inputs, outputs in shapes([int(width) for width in given.widths.split(",")])
        }
        if given.dry:
            print(json.dumps(found, indent=1))
            return
        before = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
        kept = before["shapes"] if before.get("settings") == found["settings"] else {}
        found["shapes"] = dict(sorted((kept | found["shapes"]).items(), key=lambda item: [int(side) for side in item[0].split(" x ")]))
        write("linears", found)
    text = table(json.loads(results.read_text(encoding="utf-8")))
    page = DOCS.read_text(encoding="utf-8")
    DOCS.write_text(MARK.sub(lambda match: match[1] + text + match[2], page), encoding="utf-8")


if __name__ == "__main__":
    main()
