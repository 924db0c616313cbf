"""Updates inside the backward pass: the ordinary step's to rounding, counted as the ordinary step's, and with the gradients' memory saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ingot
from ingot.build.check import check
from ingot.build.plan import forecast_stage
from ingot.core.resolve import spec
from ingot.train.step import step

FREE = {"anomaly": {"policy": "log"}, "evaluate": {"every": "100%", "rows": 2}, "checkpoint": {"every": "100%"}}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "lion": {},
    "sgd": {},
    "muon": {"normalize": "neurons"},
    "schedule_free": {},
    "badam": {"every": 2},
    "lisa": {"layers": 1, "every": 2},
}


def trained(tiny_recipe: Any, name: str, optimizer: dict[str, Any], fused: bool, **changes: Any) -> tuple[Any, list[dict[str, Any]]]:
    stage = {"budget": "4 steps", "optimizer": optimizer, "hooks": [], "fused_backward": fused}
    run = ingot.build(tiny_recipe({"stages": {0: stage}} | FREE, changes, name=name))
    run.train()
    lines = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
    return run, [line for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("micro_rows", [8, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_ordinary_step(name: str, micro_rows: int, tiny_recipe: Any) -> None:
    chosen = {"name": name, "lr": 0.003} | OPTIMIZERS[name]
    # the encoder computes activations again in its backward, which must read weights that have not moved yet
    changes = {"micro_rows": micro_rows, "precision": "fp64", "model": {"encoder": {"checkpointing": "full"}}}
    (plain, wanted), (fused, found) = (trained(tiny_recipe, f"{fused}", chosen, fused, **changes) for fused in (False, True))
    for key, value in plain.model.state_dict().items():
        assert float((fused.model.state_dict()[key] - value).norm() / value.norm()) < 1e-12, key
    for line, other in zip(found, wanted, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-12) and line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-9)
        assert line["flops_by_component"] == other["flops_by_component"] and line["step_recomputed"] == other["step_recomputed"]
        assert line["phases"]["optimizer"] > 0
        weights = [weight.nbytes for weight in fused.model.parameters()]
        if name not in ("badam", "lisa"):
            assert other["memory"]["gradients"] == sum(weights)
            assert line["memory"]["gradients"] == (sum(weights) if micro_rows == 3 else max(weights)), (
                "the sum waits for the last micro-batch"
            )
        else:
            assert line["memory"]["gradients"] <= other["memory"]["gradients"] < sum(weights)


def test_muons_products_are_the_optimizers(tiny_recipe: Any) -> None:
    _, lines = trained(tiny_recipe, "muon", {"name": "muon", "lr": 0.01}, True)
    assert all(line["flops_by_component"]["optimizer"] > 0 for line in lines)


class Choosing(nn.Module):
    """Uses its second weight in even rows only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.always, self.even = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = self.always(batch["x"])
        return {"loss": (x if bool(batch["rows"][0] % 2) else self.even(x)).square().sum(dim=1)}


def test_a_weight_that_the_last_micro_batch_does_not_use_is_updated_all_the_same() -> None:
    ends, norms, alive = [], [], []
    for fused in (False, True):
        model = Choosing()
        optimizer = spec("optim", "adamw", lr=0.1).build(params=list(model.parameters()))
        state = SimpleNamespace(model=model, optimizer=optimizer, extra={})
        window = [{"rows": torch.tensor([row]), "units": torch.tensor([1]), "x": torch.full((1, 4), row + 1.0)} for row in (0, 1)]
        outcome = step(
            state,
            window,
            spec("parallel.layout", "single").build(),
            side_weights={},
            hooks={},
            judge=lambda found: True,
            stop=lambda: False,
            phase=lambda name: nullcontext(),
            fused_backward=fused,
        )
        ends.append([weight.detach().clone() for weight in model.parameters()])
        norms.append(outcome.gradient_norm)
        alive.append(outcome.gradient_bytes)
        assert not any(weight._post_accumulate_grad_hooks for weight in model.parameters()), "nothing stays behind"
    assert all(torch.equal(a, b) for a, b in zip(*ends)) and not torch.equal(ends[0][2], Choosing().even.weight)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6) and alive[0] == alive[1] == 2 * (16 + 4) * 4


REFUSED = [
    ({"stages": {0: {"hooks": ["clip"]}}}, "the hook 'clip' wants all gradients before the update"),
    ({"anomaly": {"policy": "skip"}}, "cannot be held back as anomaly.policy 'skip' would"),
    ({"anomaly": {"policy": "roll_back"}}, "cannot be held back"),
    ({"stages": {0: {"optimizer": {"name": "sam", "inner": {"name": "adamw", "lr": 0.1}}}}}, "optimizer 'sam' takes the gradient twice"),
    ({"layout": "replicate"}, "under the layout 'replicate' gradients cross ranks after the backward pass"),
    ({"layout": "fsdp"}, "under the layout 'fsdp'"),
]


@pytest.mark.parametrize(("patch", "sentence"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_needs_all_gradients_first_is_refused_before_the_run(patch: dict[str, Any], sentence: str, tiny_recipe: Any) -> None:
    base = {"stages": {0: {"fused_backward": True, "hooks": []}}} | FREE
    assert check(tiny_recipe(base))[1] == []
    _, problems = check(tiny_recipe(base, patch))
    assert len(problems) == 1 and problems[0].where == "stages.0.fused_backward" and sentence in problems[0].message


def peak(optimizer: str, how: str) -> dict[str, int]:
    environment = os.environ | {
        "PYTHONPATH": str(Path(ingot.__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "262144",
    }  # freed means freed
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("_peak.py")), optimizer, how],
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the process's peak is read from Linux")
def test_the_process_holds_less_by_what_the_formula_says() -> None:
    """Of 168 MB of weights: the gradients but for the largest; block-coordinate, gradients and state of all blocks but one, or two."""
    plain, fused, block, layers = peak("adamw", "plain"), peak("adamw", "fused"), peak("badam", "plain"), peak("lisa", "plain")
    assert fused["gradients"] == plain["matrix"] and plain["gradients"] == plain["weights"]
    assert plain["peak"] - fused["peak"] == pytest.approx(plain["weights"] - plain["matrix"], rel=0.1)
    assert plain["peak"] - block["peak"] == pytest.approx(3 * (plain["weights"] - plain["block"]), rel=0.1)
    assert plain["peak"] - layers["peak"] == pytest.approx(3 * (plain["weights"] - 2 * plain["block"]), rel=0.1)  # two at a time


def test_the_forecast_says_the_same(tiny_recipe: Any) -> None:
    small = {"model": {"width": 256}, "data": {"sequence": 8}, "micro_rows": 1}  # so that activations are few beside the weights
    found = []
    for fused in (False, True):
        run = ingot.build(tiny_recipe({"stages": {0: {"batch": "1 rows", "fused_backward": fused, "hooks": []}}} | FREE, small))
        found.append(forecast_stage(run, 0, 1))
    plain, freed = found
    weights = [weight.nbytes for weight in run.model.parameters()]
    assert plain.flops == freed.flops
    assert plain.peak - freed.peak == pytest.approx(sum(weights) - max(weights), rel=0.1)
