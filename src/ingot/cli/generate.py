"""Continue a prompt with a run's model, as it is produced.

The objective says how. Models of multi_token write several tokens at a time at --temperature 0, which gives the same text sooner; those
of masked_diffusion begin with masks everywhere and fill them in, in any order.

$ ingot generate runs/gpt_tiny 'def parse('
$ ingot generate runs/gpt_tiny 'Once upon' --tokens 200 --temperature 0.8 --top-p 0.95 --seed 1
$ echo 'import os' | ingot generate runs/gpt_tiny -
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from itertools import chain

from . import _run
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    _run.configure(parser)
    parser.add_argument(
        "prompt",
        nargs="?",
        default="",
        metavar="PROMPT",
        help="text to continue; - reads standard input; nothing starts a document, where the tokenizer has a token that opens one",
    )
    parser.add_argument("--tokens", type=int, default=100, metavar="N", help="at most so many tokens (default: 100)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0 always takes the likeliest token (default: 1)")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among the likeliest tokens that together have probability P")
    parser.add_argument("--passes", type=int, metavar="N", help="masked_diffusion: so many passes fill the text in (default: one a token)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default: 0)")


def run(arguments: argparse.Namespace, output: Output) -> int:
    refuse_impossible(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    found, _ = _run.opened(arguments, output)
    produced = []
    texts = found.generate(
        prompt,
        tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        passes=arguments.passes,
    )
    first = next(texts, "")  # a model that cannot generate is refused here, before anything is shown
    if not output.json:
        print(shown(prompt), end="", flush=True)
    for text in chain([first], texts):
        produced.append(text)
        if not output.json:
            print(shown(text), end="", flush=True)
    output.print("")
    output.result({"run": arguments.run, "prompt": prompt, "text": "".join(produced), "seed": arguments.seed})
    return 0


def shown(text: str) -> str:
    """Text as it may go to standard output: a terminal would obey control characters, so there all but line ends and tabs are escaped."""
    if not sys.stdout.isatty():
        return text
    return "".join(repr(letter)[1:-1] if unicodedata.category(letter) == "Cc" and letter not in "\n\t" else letter for letter in text)


def refuse_impossible(arguments: argparse.Namespace) -> None:
    """Raises UserError naming every option that is out of range."""
    from ..core.errors import Problem, UserError

    rules = [
        ("--tokens", arguments.tokens >= 1, "wants a number of at least 1", arguments.tokens),
        ("--temperature", arguments.temperature >= 0, "wants a number of at least 0", arguments.temperature),
        ("--top-k", arguments.top_k is None or arguments.top_k >= 1, "wants a number of at least 1", arguments.top_k),
        ("--passes", arguments.passes is None or arguments.passes >= 1, "wants a number of at least 1", arguments.passes),
        ("--top-p", arguments.top_p is None or 0 < arguments.top_p <= 1, "wants a number above 0 and at most 1", arguments.top_p),
    ]
    problems = [Problem(option, f"{wish}, got {value}") for option, fine, wish, value in rules if not fine]
    if problems:
        raise UserError(problems)
