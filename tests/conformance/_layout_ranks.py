"""Run by test_parallel_layout.py: every layout on so many forked ranks.   python _layout_ranks.py FOLDER RANKS NAMES...

Each rank leaves FOLDER/NAME-RANK.json; rank 0 leaves FOLDER/NAME.safetensors with full tensors.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import ingot.train.step
from ingot.build.parity import whole
from ingot.core.resolve import spec
from ingot.model.graph import Model
from ingot.parallel.start import leave, start
from ingot.train.state import model_tensors

sys.path.append(str(Path(__file__).resolve().parents[1]))
from _forked import finish, forked

ROWS, LENGTH, VOCABULARY = 7, 10, 30


def model_of(dtype: torch.dtype) -> Model:
    wiring = {"width": 16, "vocabulary": VOCABULARY, "sequence": LENGTH, "specials": {}, "linear": spec("nn.linear", "dense")}
    encoder = spec("model.encoder", "transformer", depth=2, dropout=0.1, mixer={"name": "attention", "heads": 2}).build(**wiring)
    model = Model(
        embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=spec("objective", "causal_lm").build(**wiring)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.compute_dtype = dtype
    return model.double() if dtype == torch.float64 else model


def window(rank: int, ranks: int) -> list[dict[str, torch.Tensor]]:
    """Two micro-batches of this rank's share of the rows; where it ends early, of padding."""
    tokens = torch.randint(4, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    mine, found = torch.tensor_split(torch.arange(ROWS), ranks)[rank], []
    size = math.ceil(math.ceil(ROWS / ranks) / 2)
    for rows in (mine[:size], mine[size:]):
        real = torch.arange(size) < len(rows)
        rows = torch.cat([rows, torch.zeros(size - len(rows), dtype=torch.int64)])
        found.append(
            {
                "rows": torch.where(real, rows, -1),
                "tokens": tokens[rows] * real[:, None],
                "segments": real[:, None].int().expand(-1, LENGTH),
                "key": torch.tensor(3),
            }
        )
    return found


def work(layout: Any, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """One gradient and one update through the layout, and what its methods answer."""
    plain = model_of(dtype)
    model = layout.shard(model_of(dtype), dtype)
    micros = [model.objective.prepare(micro) for micro in window(layout.rank, layout.ranks)]
    ingot.train.step.forward_backward(model, micros, layout, {})
    norm = layout.clip_norm(model.parameters())
    tensors = {f"gradient.{name}": whole(parameter.grad) for name, parameter in model.named_parameters()}
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    tensors |= {name: whole(value) for name, value in model_tensors(model).items()}
    total = layout.total(torch.tensor([0.1 * (layout.rank + 1), 1e16]))
    count = layout.total(torch.tensor([2**60 // layout.ranks], dtype=torch.int64))
    layout.barrier()
    facts = {
        "rank": layout.rank,
        "ranks": layout.ranks,
        "names": [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()],
        "norm": float(norm),
        "total": total.tolist(),
        "total_dtype": str(total.dtype),
        "count": count.tolist(),
        "gathered": layout.gather({"rank": layout.rank}),
        "heard": layout.broadcast_object(f"from {layout.rank}"),
        "bytes": sum((parameter.to_local() if hasattr(parameter, "to_local") else parameter).nbytes for parameter in model.parameters()),
    }
    return tensors, facts


def rank_main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    start()
    for name in names:
        for dtype in (torch.float64, torch.bfloat16):
            tensors, facts = work(spec("parallel.layout", name).build(), dtype)
            short = f"{name}-{facts['ranks']}-{str(dtype).removeprefix('torch.')}"
            if facts["rank"] == 0:
                save_file(tensors, folder / f"{short}.safetensors")
            (folder / f"{short}-{facts['rank']}.json").write_text(json.dumps(facts))
    leave()


def main(folder: Path, ranks: int, names: list[str]) -> None:
    finish(forked(ranks, lambda rank: rank_main(folder, names)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
