"""A tokenizer from a file: a tokenizer.json, or a folder in the Hugging Face format.

The end, mask, padding and other special tokens are taken from the folder's configuration, else from their usual spellings. Documents
begin with the token that the file's own rule puts before a text ([CLS] of BERT, <s> of Llama), as those that the model was trained on did,
and end with the one that it puts after it ([SEP]) where the configuration names no end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import Problem, UserError
from ...core.parts import part
from ._fast import FastTokenizer, around, find_specials, read_specials, read_tokenizer


@part
class Pretrained(FastTokenizer):
    """path: file or folder, relative to the recipe. end: the token that closes a document, where it is not found by itself. opens: whether
    documents begin with the token that the file's rule puts first; left open it is so unless the folder's add_bos_token is false."""

    def __init__(self, folder: Path, *, path: str, end: str | None = None, opens: bool | None = None):
        file = _place(folder, path)
        inner = read_tokenizer(file)
        declared = _declared(file.parent)
        if (file.parent / "ingot.json").is_file():
            specials, _, opening = read_specials(file.parent / "ingot.json", inner)
        else:
            specials, opening = find_specials(inner, declared), declared.get("add_bos_token", True)
            if "eos_token" not in declared and (closing := around(inner)[1]) is not None:
                specials["end"] = closing
        if end is not None:
            index = inner.token_to_id(end)
            if index is None:
                raise UserError([Problem(str(file), f"has no token {end!r} to end documents with")])
            specials["end"] = int(index)
        if "end" not in specials:
            raise UserError([Problem(str(file), "has no end-of-text token that is known; name it with 'end'")])
        opens = bool(opening) if opens is None else opens
        super().__init__(inner, specials, splits=_is_byte_level(json.loads(inner.to_str())), opens=opens)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        folder = context.get("folder")
        if folder is not None and not (file := _place(folder, knobs["path"])).is_file():
            yield f"path: no such tokenizer file: {file}"


def _place(folder: Path, path: str) -> Path:
    place = Path(folder) / os.path.expanduser(path)
    return place / "tokenizer.json" if place.is_dir() else place


def _declared(folder: Path) -> dict[str, Any]:
    """Special tokens by role from the files beside tokenizer.json."""
    result: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            try:
                result |= {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if value or value is False}
            except (ValueError, AttributeError) as error:
                raise UserError([Problem(str(path), f"is not a JSON object: {error}")]) from None
    return result


def _is_byte_level(description: dict[str, Any]) -> bool:
    """Whether texts are cut by GPT-2's pattern and nothing else, so that long ones may be encoded in pieces."""
    before = description.get("pre_tokenizer") or {}
    return (
        description.get("normalizer") is None
        and before.get("type") == "ByteLevel"
        and not before["add_prefix_space"]
        and bool(before.get("use_regex", True))
    )
