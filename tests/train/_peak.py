"""Run by test_fused_backward.py in a process of its own:   python _peak.py OPTIMIZER FUSED

Three steps of a deep stack of matrices on a few rows, so that the peak is weights, optimizer state and gradients. Prints JSON: the
bytes that the process held at most beyond its start, and the sums of weights, of one block and of one matrix.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ingot.core.resolve import spec
from ingot.ledger.memory import process_memory, process_peak
from ingot.train.step import step

WIDTH, DEPTH = 1024, 10


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH, bias=False), nn.Tanh(), nn.Linear(2 * WIDTH, WIDTH, bias=False)) for _ in range(DEPTH)
        )

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["x"]
        for block in self.blocks:
            x = x + block(x)
        return {"loss": x.square().mean(dim=1)}


def main(name: str, fused: bool) -> None:
    torch.set_num_threads(1)
    torch.mm(torch.ones(8, 8), torch.ones(8, 8))  # what the first product loads is not the step's
    layout = spec("parallel.layout", "single").build()
    before = process_memory()
    model = Stack()
    optimizer = spec("optim", name, lr=1e-3).build(
        params=[{"params": list(model.parameters()), "names": [key for key, _ in model.named_parameters()]}]
    )
    state = SimpleNamespace(model=model, optimizer=optimizer, extra={})
    rows = torch.arange(4)
    window = [{"rows": rows, "x": torch.randn(4, WIDTH), "units": torch.ones_like(rows)}]
    for _ in range(3):
        outcome = step(
            state,
            window,
            layout,
            side_weights={},
            hooks={},
            judge=lambda found: True,
            stop=lambda: False,
            phase=lambda name: nullcontext(),
            fused_backward=fused,
        )
    weights = [weight.nbytes for weight in model.parameters()]
    print(
        json.dumps(
            {
                "peak": process_peak() - before,
                "weights": sum(weights),
                "block": sum(weights[:2]),
                "matrix": max(weights),
                "gradients": outcome.gradient_bytes,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "fused")
