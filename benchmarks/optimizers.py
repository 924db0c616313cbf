"""What every optimizer's step costs over AdamW's, against what its arithmetic explains, on the weights of small GPTs.

    python benchmarks/optimizers.py [METHOD ...] [--sizes 384x6 1024x2] [--vocabulary 8192] [--turns 9] [--threads 1] [--device cpu] [--write]
    python benchmarks/optimizers.py --write-docs      the table of docs/optimizers.md from the results, timing nothing

share = the method's step / (AdamW's step + the arithmetic that the method has and AdamW has not); above 1.25 it is a miss. In every
turn AdamW (torch's, fused), the method and the kernels of its arithmetic are timed one after another, so that a busy machine slows
them alike; the median turn counts. A step's share of a decomposition every `refresh` steps is added on both sides. Gradients are
given and the closure does nothing, so forward and backward are not in any figure.

The arithmetic, by method, is the table in ``extra``; its kernels are timed alone, by the least torch operation that does the same:

    matmul m k n     torch.mm of these shapes, operands laid out as the method has them, out= given
    adam n, op n     a fused Adam step, an elementwise product, of n elements in chunks that stay in a CPU's cache; root n: 1 / sqrt
    lookup n         n values from a table by index            draw n     n normal numbers
    pass n           n numbers once more read or written in memory: n * 4 bytes / the bandwidth of a sum over 64 MB
    copy n           n numbers copied to memory that the system has to give first
    svd m n, qr m n  torch.linalg's, divided by the refresh interval
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import _machine
import torch
from torch import nn

from ingot.core.axes import Axes
from ingot.core.parts import parts_in
from ingot.core.resolve import spec

CHUNK, STREAM = 2**16, 2**24
RESULTS = _machine.ROOT / "benchmarks" / "results" / "optimizer_steps.json"
PAGE, START, END = _machine.ROOT / "docs" / "optimizers.md", "<!-- from benchmarks/optimizers.py -->\n", "<!-- end -->\n"
ONE = {"lr": 1e-6}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {} if name == "sam" else ONE) for name in parts_in("optim")},
    "apollo, mini": ("apollo", ONE | {"rank": 1, "scaling": "tensor", "scale": 128.0}),
    "galore, 8 bits": ("galore", ONE | {"state_bits": 8}),
    "galore, randomized": ("galore", ONE | {"subspace": "randomized"}),
    "muon, neurons, cautious": ("muon", ONE | {"normalize": "neurons", "cautious": True, "weight_decay": 0.1}),
    "muon, bf16": ("muon", ONE | {"iteration_dtype": "bf16"}),
}
Kernels = Counter[tuple[Any, ...]]


def low_rank(r: int, c: int, k: int, products: int) -> Kernels:
    """Products between a gradient and its image, as many as stated, the first down; and Adam on the image."""
    s, long = min(r, c), max(r, c)
    down = ("matmul", r, c, k, "") if r >= c else ("matmul", k, r, c, "left")
    up = ("matmul", r, k, c, "right") if r >= c else ("matmul", r, k, c, "")
    return Counter({down: 1, up: products - 1, ("adam", long * k): 1}) if s else Counter()


def iteration(r: int, c: int, dtype: str) -> Kernels:
    """Newton-Schulz, five times, in the cheaper order of its products."""
    s, long = sorted((r, c))
    if long >= 2 * s and dtype != "bf16":
        return Counter({("matmul", s, long, s, "right"): 1, ("matmul", s, s, s, ""): 17, ("matmul", s, s, long, ""): 1, ("op", r * c): 3})
    found: Kernels = Counter({("matmul", s, long, s, f"right {dtype}"): 5, ("op", r * c): 3})
    for columns in (s, long):  # one kernel where the matrix is square
        found["matmul", s, s, columns, dtype] += 5
    return found


def extra(part: str, knobs: dict[str, Any], shape: tuple[int, ...], role: str) -> Kernels:
    """EXTRA: what a step does to one weight that AdamW's does not."""
    n = torch.Size(shape).numel()
    r, c = shape if len(shape) == 2 else (n, 1)
    k, s, long = min(knobs.get("rank", 1), r, c), min(r, c), max(r, c)
    low, bits = role == "matrix", knobs.get("state_bits", 32)
    image = long * k if low else n  # what GaLore quantizes

    def coded(values: int, decoded: float = 1.0) -> Kernels:
        """Two moments, if they are not too small. Decoded: index, look-up, scale. Encoded: magnitude, largest, quotient, sign, shift, mask,
        index, look-up, carry, shift, byte. And the second moment's square and average, rounded apart from Adam's."""
        found: Kernels = Counter({("lookup", values): 4 if decoded == 1 else 3, ("op", values): 27})  # 4 bits: two in a look-up
        return found if values >= 4096 and len(shape) > 1 else Counter()

    table: dict[str, Callable[[], Kernels]] = {
        "adafactor": lambda: Counter(
            {("op", n): 6, ("root", n): 1, ("pass", n): 1}
        ),  # g^2, by rows and columns, V, two norms; g read again
        "adam8bit": lambda: coded(n),
        "adam4bit": lambda: coded(n, 0.5),
        "lion": lambda: Counter(
            {("op", n): 4}
        ),  # torch has fused kernels for Adam and SGD alone: an average, its sign, the sum, the momentum
        "apollo": lambda: low_rank(r, c, k, 1) + Counter({("draw", s * k): 1, ("op", long * k): 3, ("op", n): 2}),  # two norms; s G, |s G|
        "fira": lambda: low_rank(r, c, k, 3) + Counter({("op", long * k): 3, ("op", n): 3}),  # two norms; phi S, |S|, the sum
        "galore": lambda: low_rank(r, c, k, 2) + (coded(image) if bits == 8 else Counter()),
        "muon": lambda: iteration(r, c, knobs["iteration_dtype"]) + Counter({("op", n): 9 if knobs["normalize"] != "none" else 0}),
        "online_subspace_descent": lambda: (
            low_rank(r, c, k, 2)
            + Counter({("matmul", c, r, k, "left") if r >= c else ("matmul", r, c, k, "right"): 1, ("matmul", k, s, k, "left"): 1})
            + Counter({("matmul", k, long, k, "left"): 1, ("adam", s * k): 1, ("op", s * k): 6})
            + Counter({("matmul", s, k, k, ""): 2, ("op", n): 1})
        ),
        "sam": lambda: Counter({("op", n): 2, ("copy", n): 1, ("pass", n): 5}),  # |g|; up: g read, w both ways, its copy; back: both ways
        "schedule_free": lambda: Counter({("op", n): 4, ("pass", n): 3}),  # to y, back to x, decay at y, the average; w, z again
    }
    if part == "galore" and not low:
        return coded(n) if bits == 8 else Counter()
    return table[part]() if part in table and (low or part not in ("apollo", "fira", "muon", "online_subspace_descent")) else Counter()


def decomposition(part: str, knobs: dict[str, Any], shape: tuple[int, ...], role: str) -> Kernels:
    """What a step that seeks a subspace does more."""
    if role != "matrix" or part not in ("galore", "fira"):
        return Counter()
    s, long, k = min(shape), max(shape), min(knobs["rank"], *shape)
    if knobs["subspace"] == "svd":
        return Counter({("svd", long, s): 1})
    return Counter({("matmul", s, long, k, ""): 3, ("matmul", long, s, k, "left"): 2, ("qr", s, k): 3, ("draw", long * k): 1})


def kernel(kind: str, *sizes: Any, device: str) -> tuple[Callable[[], Any], float]:
    """The least operation of a kind, and how often it goes into these sizes."""
    if kind == "matmul":
        m, k, n, layout = sizes
        dtype = torch.bfloat16 if "bf16" in layout else torch.float32
        left = torch.randn(k, m, device=device, dtype=dtype).mT if "left" in layout else torch.randn(m, k, device=device, dtype=dtype)
        right = torch.randn(n, k, device=device, dtype=dtype).mT if "right" in layout else torch.randn(k, n, device=device, dtype=dtype)
        out = torch.empty(m, n, device=device, dtype=dtype)
        return lambda: torch.mm(left, right, out=out), 1.0
    if kind in ("svd", "qr"):
        matrix = torch.randn(sizes, device=device)
        return (lambda: torch.linalg.svd(matrix, full_matrices=False)) if kind == "svd" else (lambda: torch.linalg.qr(matrix)), 1.0
    length = STREAM if kind in ("pass", "copy") else CHUNK if device == "cpu" else max(CHUNK, sizes[0])
    a, b, c, d = (torch.rand(length, device=device) for _ in range(4))
    step = torch.ones((), device=device)
    index = torch.randint(0, 256, (length,), device=device)
    adam = {"lr": 1e-6, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "eps": 1e-8, "amsgrad": False, "maximize": False}
    least: dict[str, Callable[[], Any]] = {
        "op": lambda: torch.mul(a, b, out=c),
        "pass": lambda: a.add_(b),
        "draw": lambda: a.normal_(),
        "copy": lambda: a.clone(),
        "root": lambda: torch.rsqrt(a, out=c),
        "lookup": lambda: torch.index_select(a[:256], 0, index, out=c),
        "adam": lambda: torch._fused_adamw_([a], [b], [c], [d], [], [step], **adam),
    }
    return least[kind], sizes[0] / length / (3 if kind == "pass" else 1)  # a sum reads two numbers and writes one


def shapes(width: int, depth: int, vocabulary: int) -> list[tuple[str, tuple[int, ...], Axes]]:
    """Name, shape and axes of every weight: tied embedding, four attention and two feed-forward matrices, two norms a block."""
    matrix, scale = Axes(("width", "width"), "matrix"), Axes(("width",), "scale")
    found: list[tuple[str, tuple[int, ...], Axes]] = [("embedding.weight", (vocabulary, width), Axes(("vocabulary", "width"), "embedding"))]
    for i in range(depth):
        at = f"encoder.blocks.{i}"
        found += [(f"{at}.mixer.{name}.weight", (width, width), matrix) for name in ("query", "key", "value", "output")]
        found += [
            (f"{at}.feedforward.up.weight", (4 * width, width), matrix),
            (f"{at}.feedforward.down.weight", (width, 4 * width), matrix),
        ]
        found += [(f"{at}.{name}.weight", (width,), scale) for name in ("mixer_norm", "feedforward_norm")]
    return found


def timed(action: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    action()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(label: str, named: list[tuple[str, tuple[int, ...], Axes]], turns: int, device: str) -> dict[str, Any]:
    """One method beside AdamW: seconds of both, of the arithmetic between them, and the share."""
    part, given = CASES[label]
    weights = [nn.Parameter(torch.randn(shape, device=device) * 0.02) for _, shape, _ in named]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    group = {"params": weights, "names": [name for name, _, _ in named], "axes": [axes for _, _, axes in named]}
    choice = spec("optim", part, **given)
    ours, adamw = (
        choice.build(params=[group]),
        torch.optim.AdamW([nn.Parameter(weight.detach().clone()) for weight in weights], lr=1e-6, fused=True),
    )
    for weight, twin in zip(weights, adamw.param_groups[0]["params"]):
        twin.grad = weight.grad
    rows = [(shape, axes.role) for _, shape, axes in named]
    steady, seldom = (sum((of(part, choice.knobs, *row) for row in rows), Counter()) for of in (extra, decomposition))
    kernels = {key: kernel(*key, device=device) for key in steady | seldom}

    def arithmetic(wanted: Kernels) -> float:
        return sum(
            number * kernels[key][1] * statistics.median(timed(kernels[key][0], device) for _ in range(1 if key[0] == "svd" else 3))
            for key, number in wanted.items()
        )

    def ours_step() -> float:
        return timed(lambda: ours.step(lambda: None), device)

    ours.step(lambda: None), adamw.step()  # the first step creates the state
    found = [(timed(adamw.step, device), ours_step(), arithmetic(steady)) for _ in range(turns)]
    base, step, floor = (statistics.median(column) for column in zip(*found))
    result = {"adamw": base, "step": step, "arithmetic": floor}
    if seldom:
        for state in ours.state.values():
            state["step"].zero_()  # where a subspace is due
        every = choice.knobs["refresh"]
        result |= {"decomposition": (ours_step() - step) / every, "decomposition_arithmetic": arithmetic(seldom) / every}
    more, floor_more = result.get("decomposition", 0.0), result.get("decomposition_arithmetic", 0.0)
    shares = [(own + more) / (adam + work + floor_more) for adam, own, work in found]
    return result | {"times_adamw": (step + more) / base, "share": _machine.spread(shares)}


def bytes_per_weight(label: str) -> float:
    """State of an optimizer at the LLaMA-1B shape, over its weights; where it trains some blocks at a time, in the dearest period."""
    sys.path.insert(0, str(_machine.ROOT / "tests" / "optim"))
    from test_state_memory import held_bytes, llama

    names, sizes, axes = zip(*llama(2048, 5461, 24, 32000))
    weights = [nn.Parameter(torch.empty(size, device="meta")) for size in sizes]
    part, knobs = CASES[label]
    optimizer = spec("optim", part, **knobs).build(params=[{"params": weights, "names": list(names), "axes": list(axes)}])
    if hasattr(optimizer, "stand_at_dearest"):
        optimizer.stand_at_dearest()
    optimizer.init_state()
    return float(held_bytes(optimizer)) / sum(weight.numel() for weight in weights)


def table() -> str:
    """Markdown: every method's state, least first, and what its step was measured to cost."""
    sizes = json.loads(RESULTS.read_text(encoding="utf-8"))["sizes"]
    lines = [
        f"| | state, bytes per weight | {' | '.join(f'step, x AdamW, {size}' for size in sizes)} |",
        "|---|" + "---:|" * (1 + len(sizes)),
    ]
    for state, label in sorted((bytes_per_weight(label), label) for label in CASES):
        part, _, variant = label.partition(", ")
        times = [f"{found[label]['times_adamw']:.1f}" if label in found else "not run" for found in sizes.values()]
        lines.append(f"| `{part}`{', ' + variant if variant else ''} | {state:.2f} | {' | '.join(times)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/optimizers.md with the table as it is now."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    return head + START + table() + END + rest.partition(END)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", default=list(CASES))
    parser.add_argument("--sizes", nargs="*", default=["384x6", "1024x2"], help="width x depth")
    for name, default in (("vocabulary", 8192), ("turns", 9), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="keep the figures in results/, beside those of other methods and sizes there")
    parser.add_argument("--write-docs", action="store_true", help="the table of docs/optimizers.md, timing nothing")
    given = parser.parse_args()
    if given.write_docs:
        PAGE.write_text(page(), encoding="utf-8")
        return
    torch.set_num_threads(given.threads)
    results: dict[str, Any] = {}
    for size in given.sizes:
        width, depth = map(int, size.split("x"))
        named = shapes(width, depth, given.vocabulary)
        print(f"{size}: {sum(torch.Size(shape).numel() for _, shape, _ in named):,} weights on {given.device}, {given.threads} threads")
        for label in given.methods:
            found = results.setdefault(size, {})[label] = measured(label, named, given.turns, given.device)
            miss = "  MISS" if found["share"]["median"] > 1.25 else ""
            print(
                f"{label:26}{found['step'] * 1e3:10.2f} ms{found['times_adamw']:8.2f} x AdamW   share {found['share']['median']:5.2f}{miss}",
                flush=True,
            )
    if given.write:
        before = json.loads(RESULTS.read_text()).get("sizes", {}) if RESULTS.exists() else {}
        sizes = {size: before.get(size, {}) | results.get(size, {}) for size in before | results}
        _machine.write(RESULTS.stem, {"threads": given.threads, "device": given.device, "sizes": sizes})


if __name__ == "__main__":
    main()
