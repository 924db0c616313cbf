"""The argument RUN: a run folder, or one of its checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.folders import run_and_checkpoint

if TYPE_CHECKING:
    from ..build.run import Run
    from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    """RUN."""
    parser.add_argument("run", metavar="RUN", help="a run folder (its newest whole checkpoint is taken), or a checkpoint inside it")


def opened(arguments: argparse.Namespace, output: Output) -> tuple[Run, Path | None]:
    """The run with its weights loaded, and the checkpoint asked for. Raises UserError."""
    from ..build.run import open_run

    folder, checkpoint = run_and_checkpoint(arguments.run)
    return open_run(folder, checkpoint, echo=None if output.json else output.note), checkpoint
