"""Grouped execution of experts against one dense product of equal FLOPs, forward and backward, for 8 to 64 experts.

    python benchmarks/moe.py [--width 512] [--hidden 1024] [--tokens 8192] [--experts 8,16,32,64] [--turns 7] [--dtype fp32] [--threads 1] [--write]

Two comparisons, each taking turns in one process, so that a busy machine slows both alike; medians of the turns' ratios:

    product    rows sorted by expert times their own matrices      against   the same rows times one matrix
    layer      a mixture, top 2, with routing, sorting and sums    against   a dense feed-forward of equal FLOPs (twice as wide)

Loads are what a random router gives, uneven by chance, and others every turn, as they are in training: kernels are not met again for
the very same sizes. --write keeps the figures in benchmarks/results/moe.json, beside those of other dtypes, threads and experts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import _machine
import torch
from torch import Tensor

from ingot.core.resolve import spec
from ingot.nn.context import Context
from ingot.ops.grouped import ends_of, grouped_matmul

WARM = {torch.bfloat16: 4, torch.float32: 2}  # turns before the first that counts: until memory, and in bf16 kernels, are there


def pair(
    grouped: Callable[[], Tensor], dense: Callable[[], Tensor], leaves: list[Tensor], fresh: Callable[[], object], turns: int
) -> dict[str, float]:
    """Both in turns, with fresh loads in each; the rate of the grouped one as a share of the dense one's."""
    seconds: dict[str, list[float]] = {"grouped": [], "dense": []}
    pull: dict[str, Tensor] = {}
    for turn in range(-WARM[leaves[0].dtype], turns):
        fresh()
        for name, call in (("grouped", grouped), ("dense", dense)):
            for leaf in leaves:
                leaf.grad = None
            start = time.perf_counter()
            result = call()
            result.backward(pull.setdefault(name, torch.ones_like(result)))
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    shares = [dense / grouped for dense, grouped in zip(seconds["dense"], seconds["grouped"], strict=True)]
    return {
        "share_of_dense": statistics.median(shares),
        "lowest": min(shares),
        "highest": max(shares),
        "grouped_ms": statistics.median(seconds["grouped"]) * 1e3,
        "dense_ms": statistics.median(seconds["dense"]) * 1e3,
    }


def product(width: int, hidden: int, rows: int, experts: int, turns: int, dtype: torch.dtype) -> dict[str, float]:
    x = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    stack = torch.randn(experts, hidden, width).div_(width**0.5).to(dtype).requires_grad_()
    single = torch.randn(hidden, width).div_(width**0.5).to(dtype).requires_grad_()
    ends = torch.empty(experts, dtype=torch.int32)
    return pair(
        lambda: grouped_matmul(x, stack, ends),
        lambda: x @ single.t(),
        [x, stack, single],
        lambda: ends.copy_(ends_of(torch.randint(0, experts, (rows,)).sort().values, experts)),
        turns,
    )


def layer(width: int, hidden: int, tokens: int, experts: int, turns: int, dtype: torch.dtype) -> dict[str, float]:
    linear = spec("nn.linear", "dense")
    mixture = spec("nn.feedforward", "moe", experts=experts, expert={"name": "relu2", "hidden": hidden}, router="top_k").build(
        width=width, linear=linear, layer=0
    )
    dense = spec("nn.feedforward", "relu2", hidden=2 * hidden).build(width=width, linear=linear)
    x = torch.randn(tokens // 256, 256, width, dtype=dtype, requires_grad=True)
    context = Context(torch.arange(256).expand(len(x), -1), None, True, torch.arange(len(x)), torch.tensor(0))
    return pair(
        lambda: mixture(x, context), lambda: dense(x), [x, *mixture.parameters(), *dense.parameters()], lambda: x.detach().normal_(), turns
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 512), ("hidden", 1024), ("tokens", 8192), ("turns", 7), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--experts", default="8,16,32,64")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--write", action="store_true", help="keep the figures under benchmarks/results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    from ingot.ops.memory import keep_freed_memory

    keep_freed_memory()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[given.dtype]
    results = {}
    print(
        f"width {given.width}, hidden {given.hidden}, {given.tokens} tokens, {given.dtype}, {given.threads} threads: rate as a share of dense"
    )
    for experts in map(int, given.experts.split(",")):
        found = {
            "product": product(given.width, given.hidden, 2 * given.tokens, experts, given.turns, dtype),
            "layer": layer(given.width, given.hidden, given.tokens, experts, given.turns, dtype),
        }
        results[str(experts)] = found
        print(
            f"{experts:3} experts   "
            + "   ".join(
                f"{name} {one['share_of_dense']:.0%} ({one['lowest']:.0%} to {one['highest']:.0%})" for name, one in found.items()
            ),
            flush=True,
        )
    if given.write:
        path = _machine.ROOT / "benchmarks" / "results" / "moe.json"
        shape = {name: getattr(given, name) for name in ("width", "hidden", "tokens")}
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept = before.get("layouts", {}) if before.get("settings") == shape else {}
        label = f"{given.dtype}, {given.threads} threads"
        _machine.write("moe", {"settings": shape, "layouts": kept | {label: kept.get(label, {}) | results}})


if __name__ == "__main__":
    main()
