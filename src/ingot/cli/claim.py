"""Write a race's claim card: what a paper says of a method, and what was seen here.

Without a race, lists the cards there are. Either way the page of all cards, index.html, is written anew.

$ ingot claim runs/races/relu2_gelu
$ ingot claim --cards claims
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("races", nargs="*", metavar="RACE_FOLDER", type=Path, help="finished races, such as runs/races/NAME")
    parser.add_argument("--cards", default="claims", metavar="DIR", type=Path, help="where the cards lie (default: claims)")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError
    from ..race.claim import read_cards, write_card, write_cards_page

    for folder in arguments.races:
        path, _ = write_card(folder, arguments.cards)
        output.print(f"card: {path}")
    cards = read_cards(arguments.cards)
    if not cards:
        raise UserError(f"no cards in {arguments.cards}: give the folder of a finished race")
    output.table(
        ("method", "verdict", "race", "date"),
        [(one["method"], one["verdict"], one.get("race", ""), one.get("date", "")) for one in cards],
        words=4,
    )
    page = write_cards_page(arguments.cards)
    output.print(f"page: {page}")
    output.result({"cards": cards, "page": str(page)})
    return 0
