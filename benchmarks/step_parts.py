"""Rates of a training step's kernels, relative to the best plain matrix product on the same machine. Run by hand.

    python benchmarks/step_parts.py [--threads 2] [--rounds 15] [--rows 16] [--length 256] [--width 384] [--heads 6] [--vocabulary 8192]

The yardstick is the best of ten bf16 products 4096 x 1536 x 1536, taken anew in every round. Alternatives are timed in turn within
each round, so that other work on the machine touches all alike; the table gives the median and the best time, and the rate by
the FLOP convention (a multiply-add is 2, masked pairs and recomputation not counted) as a share of the yardstick.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ingot.ops.attention import attended_pairs, attention
from ingot.ops.cross_entropy import linear_cross_entropy
from ingot.ops.memory import keep_freed_memory
from ingot.ops.norms import layer_norm, rms_norm, rms_norm_reference
from ingot.ops.random import dropout

Case = tuple[str, float, Callable[[], object]]  # name, FLOPs, what to time
YARDSTICK = 2 * 4096 * 1536 * 1536


def both_ways(f: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], object]:
    g = torch.randn_like(f())
    return lambda: torch.autograd.grad(f(), leaves, g)


def attention_cases(a: argparse.Namespace) -> list[Case]:
    d = a.width // a.heads
    q, k, v = (torch.randn(a.rows, a.length, a.heads, d, dtype=torch.bfloat16).transpose(1, 2).requires_grad_() for _ in range(3))
    segments = torch.randint(1, 4, (a.rows, a.length)).sort(1).values
    mask = (segments[:, :, None] == segments[:, None])[:, None] & torch.ones(a.length, a.length, dtype=torch.bool).tril()
    flops = 3 * 4 * d * a.heads * a.rows * attended_pairs(a.length, True)
    within = 3 * 4 * d * a.heads * attended_pairs(a.length, True, segments_BT=segments)
    forms: list[tuple[str, float, Callable[[], Tensor]]] = [
        ("attention causal", flops, lambda: attention(q, k, v, causal=True)),
        ("  torch SDPA", flops, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        ("attention packed", within, lambda: attention(q, k, v, causal=True, segments_BT=segments)),
        ("  torch SDPA, mask", within, lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)),
    ]
    return [(name, count, both_ways(f, [q, k, v])) for name, count, f in forms]


def head_cases(a: argparse.Namespace) -> list[Case]:
    h = torch.randn(a.rows, a.length, a.width, dtype=torch.bfloat16, requires_grad=True)
    w = (torch.randn(a.vocabulary, a.width) / a.width**0.5).requires_grad_()
    targets = torch.randint(0, a.vocabulary, (a.rows, a.length))
    masked = targets.masked_fill(torch.rand(targets.shape) > 0.15, -100)
    flops = 6 * targets.numel() * a.width * a.vocabulary

    def plain(targets: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, w.to(h.dtype)).flatten(0, 1), targets.flatten(), reduction="sum")

    cases: list[Case] = []
    for name, t, share in (("all", targets, 1.0), ("15 %", masked, 0.15)):
        cases.append((f"head and loss, {name}", flops * share, both_ways(lambda t=t: linear_cross_entropy(h, w, t)[0].sum(), [h, w])))
        cases.append(("  torch", flops * share, both_ways(lambda t=t: plain(t), [h, w])))
    return cases


def linear_cases(a: argparse.Namespace) -> list[Case]:
    cases = []
    for inputs, outputs in ((a.width, a.width), (a.width, 4 * a.width), (4 * a.width, a.width)):
        x = torch.randn(a.rows * a.length, inputs, dtype=torch.bfloat16, requires_grad=True)
        w = torch.randn(outputs, inputs, requires_grad=True)
        run = both_ways(lambda x=x, w=w: F.linear(x, w.to(x.dtype)), [x, w])
        cases.append((f"linear {inputs} to {outputs}", 6.0 * len(x) * inputs * outputs, run))
    return cases


def light_cases(a: argparse.Namespace) -> list[Case]:
    x = torch.randn(a.rows, a.length, a.width, dtype=torch.bfloat16, requires_grad=True)
    w, b = torch.ones(a.width, requires_grad=True), torch.zeros(a.width, requires_grad=True)
    rows, key = torch.arange(a.rows), torch.tensor(1)
    return [
        ("rms_norm", 0, both_ways(lambda: rms_norm(x, w), [x, w])),
        ("  composed", 0, both_ways(lambda: rms_norm_reference(x, w), [x, w])),
        ("layer_norm", 0, both_ways(lambda: layer_norm(x, w, b), [x, w, b])),
        ("dropout", 0, both_ways(lambda: dropout(x, 0.1, rows, key, 1), [x])),
        ("  torch", 0, both_ways(lambda: F.dropout(x, 0.1), [x])),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (
        ("threads", 2),
        ("rounds", 15),
        ("rows", 16),
        ("length", 256),
        ("width", 384),
        ("heads", 6),
        ("vocabulary", 8192),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    keep_freed_memory()
    left, right = torch.randn(4096, 1536, dtype=torch.bfloat16), torch.randn(1536, 1536, dtype=torch.bfloat16)
    cases: list[Case] = [("yardstick", YARDSTICK, lambda: left @ right)]
    cases += linear_cases(a) + attention_cases(a) + head_cases(a) + light_cases(a)
    times: list[list[float]] = [[] for _ in cases]
    for _ in range(a.rounds):
        for (_, _, run), found in zip(cases, times):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    # The first round warms up.
    unit = YARDSTICK / min(times[0][1:])
    print(
        f"yardstick {unit / 1e9:.0f} GFLOP/s, {a.threads} threads\n{'forward and backward':28}{'median ms':>10}{'best ms':>10}{'of yardstick, best':>20}"
    )
    for (name, flops, _), found in zip(cases, times):
        best, median = min(found[1:]), statistics.median(found[1:])
        share = f"{flops / best / unit:19.0%}" if flops else ""
        print(f"{name:28}{median * 1e3:10.2f}{best * 1e3:10.2f} {share}")


if __name__ == "__main__":
    main()
