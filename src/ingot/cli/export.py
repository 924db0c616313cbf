"""Write a run's model as a Hugging Face folder, and check that it computes the same.

The folder holds config.json, safetensors and the tokenizer. Where transformers is installed, the folder is opened with it and outputs
are compared: logits, or what the encoder gives where transformers has no class for the objective and the encoder is written alone. A
model that no Hugging Face family can express is refused, with what stands in the way.

$ ingot export runs/gpt_1b exported
$ ingot export runs/gpt_1b/checkpoints/step-00000100 exported --dtype bf16
"""

from __future__ import annotations

import argparse

from . import _run
from ._output import Output

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def configure(parser: argparse.ArgumentParser) -> None:
    _run.configure(parser)
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="type of the weights written (default: fp32)")
    parser.add_argument("--unchecked", action="store_true", help="do not compare outputs with transformers")


def run(arguments: argparse.Namespace, output: Output) -> int:
    import torch

    from ..build.export import export

    found, _ = _run.opened(arguments, output)
    done = export(found, arguments.out, dtype=getattr(torch, DTYPES[arguments.dtype]), check=not arguments.unchecked)
    for line in done.left:
        output.print(line)
    output.print(
        f"{done.folder}: {done.architecture}, {arguments.dtype}"
        + (
            f"; outputs differ from transformers' by at most {done.difference:.1e} of the largest"
            if done.difference is not None
            else "; outputs not compared"
        )
    )
    output.result(
        {
            "folder": str(done.folder),
            "family": done.family,
            "architecture": done.architecture,
            "dtype": arguments.dtype,
            "left_behind": list(done.left),
            "outputs_difference": done.difference,
        }
    )
    return 0
