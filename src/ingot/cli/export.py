"""Write a run's model as a Hugging Face folder, and check that it computes the same.

The folder holds config.json, safetensors and the tokenizer. Where transformers is installed, the folder is opened with it and the logits
are compared. A model that no Hugging Face family can express is refused, with what stands in the way.

$ ingot export runs/gpt_1b exported
$ ingot export runs/gpt_1b/checkpoints/step-00000100 exported --dtype bf16
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from . import _run
from ._output import Output

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LARGEST = 1e-3


def configure(parser: argparse.ArgumentParser) -> None:
    _run.configure(parser)
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="type of the weights written (default: fp32)")
    parser.add_argument("--unchecked", action="store_true", help="do not compare logits with transformers")


def run(arguments: argparse.Namespace, output: Output) -> int:
    import torch
    from safetensors import SafetensorError

    from ..convert.hf import write_folder
    from ..core.errors import RunError, UserError

    out = Path(arguments.out)
    if (out / "config.json").exists():
        raise UserError(f"{out} holds a model already; name another folder")
    found, _ = _run.opened(arguments, output)
    fresh = not out.exists()
    try:
        family = write_folder(
            found.model,
            found.graph,
            out,
            tokenizer=found.tokenizer,
            sequence=found.section.data.sequence,
            dtype=getattr(torch, DTYPES[arguments.dtype]),
        )
    except (OSError, SafetensorError) as error:
        if fresh:
            shutil.rmtree(out, ignore_errors=True)
        raise RunError(f"{out} cannot be written: {error}") from None
    difference = None if arguments.unchecked or arguments.dtype != "fp32" else largest_difference(found, out, family)
    output.print(
        f"{out}: {family}, {arguments.dtype}"
        + (f"; logits differ from transformers' by at most {difference:.1e}" if difference is not None else "; logits not compared")
    )
    output.result({"folder": str(out), "family": family, "dtype": arguments.dtype, "logits_difference": difference})
    if difference is not None and not difference < LARGEST:
        raise RunError(f"{out}: transformers computes other logits, by {difference:.1e}; do not use this folder")
    return 0


def largest_difference(run: Any, folder: Path, family: str) -> float | None:
    """Largest difference of logits on one random row between the run's model and the folder opened with transformers; None without it."""
    try:
        import transformers
        from transformers import logging
    except ImportError:
        return None
    import torch

    from ..build.device import choose_device
    from ..convert.hf import families

    logging.disable_progress_bar()
    ours, causal = run.model.to(choose_device("cpu")).eval(), run.model.objective.causal
    ours.compute_dtype = torch.float32
    name = families()[family].auto or ("AutoModelForCausalLM" if causal else "AutoModelForMaskedLM")
    theirs = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    draw = torch.Generator().manual_seed(0)
    if run.tokenizer is None:
        batch = {key: torch.randn(1, *run.fields()[key].shape, generator=draw) for key in ours.embedding.reads} | {
            "rows": torch.zeros(1, dtype=torch.int64)
        }
        with torch.no_grad():
            return float((ours.logits(ours.features(batch)) - theirs(*(batch[key] for key in ours.embedding.reads)).logits).abs().max())
    length = min(64, run.section.data.sequence)
    tokens = torch.randint(0, run.tokenizer.vocabulary, (1, length), generator=draw)
    with torch.no_grad():
        mine = ours.logits(
            ours.encode({"tokens": tokens, "rows": torch.zeros(1, dtype=torch.int64), "key": run.key().cpu()}, causal=causal)
        )
        return float((mine - theirs(tokens).logits).abs().max())
