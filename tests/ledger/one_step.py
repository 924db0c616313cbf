"""Takes two optimizer steps of a model given on the command line, or forecasts them; prints one JSON object. Run by test_forecast.py."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from ingot.core.resolve import spec
from ingot.ledger.forecast import forecast
from ingot.ledger.memory import process_peak
from ingot.model.graph import Model
from ingot.ops.memory import keep_freed_memory


def build(setting: dict[str, Any]) -> Model:
    width, sequence, vocabulary = setting["width"], setting["sequence"], setting["vocabulary"]
    shared = {"width": width, "sequence": sequence, "vocabulary": vocabulary, "specials": {}, "linear": spec("nn.linear", "dense")}
    encoder = {
        "depth": setting["depth"],
        "mixer": {"name": "attention", "heads": width // 64},
        "feedforward": setting.get("feedforward", "gelu"),
    }
    model = Model(
        embedding=spec("nn.embedding", "token").build(**shared),
        encoder=spec("model.encoder", "transformer", **encoder).build(**shared),
        objective=spec("objective", "causal_lm").build(**shared),
    )
    model.compute_dtype = getattr(torch, setting["dtype"])
    model.encoder.checkpointing = setting.get("checkpointing", "none")
    return model


def batch(setting: dict[str, Any], model: Model) -> dict[str, Tensor]:
    rows, sequence = setting["rows"], setting["sequence"]
    tokens = torch.arange(rows * sequence).view(rows, sequence) % setting["vocabulary"]
    positions = torch.arange(sequence).expand(rows, sequence).contiguous()
    given = {
        "tokens": tokens,
        "rows": torch.arange(rows),
        "segments": torch.ones(rows, sequence, dtype=torch.int32),
        "positions": positions,
    }
    return model.objective.prepare(given | {"key": torch.tensor(0)})


def optimizer(setting: dict[str, Any]) -> Any:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        names, params = zip(*model.named_parameters())
        matrices = [parameter.dim() == 2 for parameter in params]
        groups = [
            {
                "params": [p for p, m in zip(params, matrices) if m is kind],
                "names": [n for n, m in zip(names, matrices) if m is kind],
                "axes": [None] * matrices.count(kind),
                "lr_scale": 1.0,
                "decay": kind,
            }
            for kind in (True, False)
        ]
        return spec("optim", setting["optimizer"], lr=1e-3).build(params=groups)

    return make


def main() -> None:
    mode, setting = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    keep_freed_memory()
    if mode == "forecast":
        with torch.device("meta"):
            model = build(setting)
        print(json.dumps(forecast(model, batch(setting, model), optimizer(setting), micro_batches=setting["micro_batches"]).as_dict()))
        return
    baseline = process_peak()
    model = build(setting)
    update, micro = optimizer(setting)(model), batch(setting, model)
    for _ in range(2):
        update.zero_grad(set_to_none=True)
        for _ in range(setting["micro_batches"]):
            torch.stack([loss.sum() for loss in model(micro).values()]).sum().backward()
        update.step()
    print(json.dumps({"measured": process_peak() - baseline}))


if __name__ == "__main__":
    main()
