"""Byte embedding: the 256 byte values and a few special ids, so that text needs no trained tokenizer.   Xue et al. 2021, arXiv:2105.13626.

tokens_BT -> x_BTD   E: (256 + specials, D)
"""

from __future__ import annotations

from ...core.parts import Fraction, Positive, Slot, part
from .token import Token

SPECIALS = 8


@part
class Byte(Token):
    """As ``token``; the vocabulary is the bytes tokenizer's where there is one, else the 256 bytes and 8 special ids."""

    tokenizer = "bytes"

    def __init__(
        self,
        width: int,
        sequence: int,
        vocabulary: int = 256 + SPECIALS,
        *,
        position: Slot["nn.position"] | None = None,
        norm: Slot["nn.norm"] | None = None,
        dropout: Fraction = 0.0,
        scale: Positive[float] = 1.0,
    ):
        super().__init__(width, vocabulary, sequence, position=position, norm=norm, dropout=dropout, scale=scale)
