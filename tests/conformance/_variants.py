"""Parts with a second row in the composition matrix: a case of the suites' KNOBS, by its number, and how the row is called."""

from __future__ import annotations

VARIANTS = {
    ("optim", "galore", 1): "8 bits",
    ("optim", "muon", 1): "its options",
    ("nn.feedforward", "moe", 1): "capacity, shared expert",
    ("model.encoder", "transformer", 3): "selective checkpointing",
}


def row_name(slot: str, name: str, number: int) -> str:
    """What a case's row is called; the first case's row is the part's."""
    return f"{slot}/{name}" + (f": {VARIANTS.get((slot, name, number), number)}" if number else "")


NAMES = [row_name(*case) for case in VARIANTS]
