"""Runs one command: its parser, its errors as lines and exit statuses, one speaking rank."""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import json
import os
import sys
import tempfile
import traceback
from types import ModuleType
from typing import NoReturn

from ..core.errors import IngotError, UserError
from ._output import Output, close_stdout

REQUIRED = "the following arguments are required: "


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line with the nearest option. json: whether they are also said as the answer."""

    json = False

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            message = f"there is no option {word!r}. " + (f"Did you mean {near[0]!r}?" if near else "")
        elif message.startswith(REQUIRED):
            # To argparse a positional that may be left out is required where it follows one that may not.
            optional = {str(action.metavar) for action in self._actions if action.nargs in ("*", "?")}
            message = REQUIRED + ", ".join(name for name in message.removeprefix(REQUIRED).split(", ") if name not in optional)
        if self.json:
            print(json.dumps({"errors": [{"where": "", "message": message.rstrip(), "origin": "command line"}]}), flush=True)
        self.exit(2, f"{self.prog}: {message.rstrip()}\n'{self.prog} --help' shows what it takes.\n")


def parser_of(name: str, module: ModuleType) -> Parser:
    """The command's parser, its description and examples taken from the module's docstring."""
    doc = inspect.getdoc(module) or ""
    examples = [line.strip() for line in doc.splitlines() if line.strip().startswith("$ ")]
    prose = "\n".join(line for line in doc.splitlines() if not line.strip().startswith("$ ")).strip()
    parser = Parser(
        prog=f"ingot {name}",
        description=prose,
        epilog="\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    if not getattr(module, "SILENT", False):
        parser.add_argument("--json", action="store_true", help="print one JSON object on standard output, and nothing else there")
    return parser


def dispatch(name: str, argv: list[str]) -> int:
    """Import the command, parse, run. Every error the user can cause becomes lines on standard error."""
    module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    parser = parser_of(name, module)
    rank = int(os.environ.get("RANK", "0"))
    parser.json = rank == 0 and "--json" in argv and not getattr(module, "SILENT", False)
    try:
        arguments = parser.parse_intermixed_args(argv)
    except SystemExit as error:
        return int(error.code or 0)
    output = Output(json=getattr(arguments, "json", False), speaks=rank == 0)
    status = _guarded(module, arguments, output, rank)
    return _leave(status)


def _guarded(module: ModuleType, arguments: argparse.Namespace, output: Output, rank: int) -> int:
    try:
        status = int(module.run(arguments, output))
        output.finish()
        return status
    except UserError as error:
        output.problems(error.problems, starts=getattr(module, "STARTS", False))
        return error.status
    except IngotError as error:
        output.failure(str(error), rank=rank)
        return error.status
    except KeyboardInterrupt:
        output.failure("interrupted", rank=rank)
        return 130
    except BrokenPipeError:
        close_stdout()
        return 0
    except Exception as error:
        if os.environ.get("INGOT_DEBUG"):
            raise
        output.failure(f"internal error: {_one_line(error)}\n  traceback: {_written_traceback()} (INGOT_DEBUG=1 prints it)", rank=rank)
        return 1


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else type(error).__name__


def _written_traceback() -> str:
    handle, path = tempfile.mkstemp(prefix="ingot-", suffix=".txt", text=True)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return path


def _leave(status: int) -> int:
    """End a rank of a process group without running destructors, which sometimes abort after correct work."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        from ..parallel.start import leave

        leave(status)
    return status
