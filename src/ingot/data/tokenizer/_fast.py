"""What tokenizers share that are kept in the Hugging Face file format (tokenizer.json) and run by the ``tokenizers`` library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from ...core.errors import Problem, UserError
from ..source._fingerprint import digest
from ._joined import Joined, ids_of

_PIECE = 1 << 16
_LONG = 1024  # mean characters up to which texts count as short; only above them is encoding without offsets the faster one, text by text
_MANY = 256  # short texts from which on they are encoded together
# The one kind of place where cutting a text cannot change its tokens: GPT-2's pattern puts a newline between two visible characters
# into a token of its own.
_CUT = re.compile(r"(?<=\S)\n(?=\S)")
_NAMES = {
    "end": ("<|end|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]"),
    "mask": ("<|mask|>", "<mask>", "[MASK]"),
    "pad": ("<|pad|>", "<pad>", "[PAD]"),
    "unknown": ("<unk>", "[UNK]"),
    "begin": ("<|begin_of_text|>", "<s>", "<bos>", "[CLS]"),
    "class": ("[CLS]",),
    "separator": ("[SEP]",),
}
_ROLES = {
    "end": "eos_token",
    "mask": "mask_token",
    "pad": "pad_token",
    "unknown": "unk_token",
    "begin": "bos_token",
    "class": "cls_token",
    "separator": "sep_token",
}


class FastTokenizer:
    """A core.seams.Tokenizer around a ``tokenizers.Tokenizer``. specials: id by role; ``end`` is among them.

    Special tokens spelled out in a text are encoded as ordinary text. splits: long texts may be cut at safe newlines to use all cores.
    opens: whether documents begin with the token that the file's own rule puts before a text ([CLS], <s>), where it has one.
    """

    begin: int | None

    def __init__(self, inner: tokenizers.Tokenizer, specials: Mapping[str, int], *, splits: bool = False, opens: bool = True):
        self.inner, self.specials, self.splits = inner, dict(specials), splits
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()
        self.vocabulary = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        self.begin, self.end = around(inner)[0] if opens else None, self.specials["end"]
        if self.begin is not None:  # whatever a configuration calls the first token, this is the one that stands there
            self.specials["begin"] = self.begin
        self.dtype = np.dtype(np.uint16 if self.vocabulary <= 1 << 16 else np.uint32)
        opened = [] if self.begin is None else [self.begin]
        self.identity = digest("tokenizers", 1, json.loads(inner.to_str()), self.specials, *opened)

    @classmethod
    def load(cls, folder: Path) -> FastTokenizer:
        """What ``save`` wrote."""
        inner = read_tokenizer(folder / "tokenizer.json")
        specials, splits, opens = read_specials(folder / "ingot.json", inner)
        return cls(inner, specials, splits=splits, opens=opens)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text, without specials, on all cores."""
        pieces = [_cut(text) if self.splits and len(text) > 2 * _PIECE else [text] for text in texts]
        flat = texts if all(len(item) == 1 for item in pieces) else [piece for item in pieces for piece in item]
        short = sum(map(len, flat)) <= _LONG * len(flat)
        if short and len(flat) >= _MANY and self.joined is not None and self.joined.safe(texts):
            return self.joined.encode(texts)
        encode = self.inner.encode_batch if short else self.inner.encode_batch_fast
        arrays = [ids_of(item).astype(self.dtype) for item in encode(flat, add_special_tokens=False)]
        if flat is texts:
            return arrays
        found = iter(arrays)
        return [np.concatenate([next(found) for _ in item]) for item in pieces]

    @cached_property
    def joined(self) -> Joined | None:
        """Encodes many short texts together, where this tokenizer allows it."""
        try:
            return Joined(self.inner, self.dtype)
        except ValueError:
            return None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; specials are left out."""
        return str(self.inner.decode([int(item) for item in ids], skip_special_tokens=True))

    def token_bytes(self) -> np.ndarray:
        """(vocabulary,) int64 UTF-8 bytes of each token; 0 for specials and unused ids."""
        result = np.zeros(self.vocabulary, dtype=np.int64)
        count = _byte_counter(json.loads(self.inner.to_str()))
        for token, index in self.inner.get_vocab(with_added_tokens=True).items():
            result[index] = count(token)
        for index, added in self.inner.get_added_tokens_decoder().items():
            result[index] = 0 if added.special else len(added.content.encode())
        result[list(self.specials.values())] = 0
        return result

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json for Hugging Face, ingot.json for ``load``."""
        save_fast(self.inner, self.specials, folder, splits=self.splits, opens=self.begin is not None)

    def export(self, folder: Path) -> None:
        """As ``save``, for others to read: texts are framed there as documents were here, so nothing opens them where nothing did."""
        inner = self.inner if self.begin is not None else without_opening(self.inner)
        save_fast(inner, self.specials, folder, splits=self.splits, opens=self.begin is not None)


def around(inner: tokenizers.Tokenizer) -> tuple[int | None, int | None]:
    """The ids that the file's own rule (its post-processor) puts before and after a text; None where it puts none, or several."""
    for text in _spellable(inner):
        bare, whole = (inner.encode(text, add_special_tokens=asked).ids for asked in (False, True))
        places = range(len(whole) - len(bare) + 1)
        at = next((place for place in places if bare and whole[place : place + len(bare)] == bare), None)
        if at is not None:
            before, after = whole[:at], whole[at + len(bare) :]
            return (before[0] if len(before) == 1 else None), (after[0] if len(after) == 1 else None)
    return None, None


def _spellable(inner: tokenizers.Tokenizer) -> Iterator[str]:
    """Short texts that the vocabulary has tokens for: most have one for "a", some (nucleotides, phonemes) do not."""
    plain = inner.get_vocab(with_added_tokens=False)
    for text in ("a", *(inner.decode([index]) for index in sorted(plain.values())[:256])):
        try:
            if text and inner.encode(text, add_special_tokens=False).ids:
                yield text
        except Exception:  # the library raises bare Exception, here where there is no token for what is unknown
            continue


def without_opening(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same, but that its own rule puts no token before a text."""
    begin, after = around(inner)
    if begin is None:
        return inner
    tree = json.loads(inner.to_str())
    name = "" if after is None else inner.id_to_token(after)
    closing = [{"SpecialToken": {"id": name, "type_id": 0}}] if name else []
    first, second = ([{"Sequence": {"id": sequence, "type_id": 0}}, *closing] for sequence in "AB")
    named = {name: {"id": name, "ids": [after], "tokens": [name]}} if name else {}
    tree["post_processor"] = {"type": "TemplateProcessing", "single": first, "pair": [*first, *second], "special_tokens": named}
    return tokenizers.Tokenizer.from_str(json.dumps(tree))


def _cut(text: str) -> list[str]:
    pieces, start = [], 0
    while (found := _CUT.search(text, start + _PIECE)) is not None:
        pieces.append(text[start : found.end()])
        start = found.end()
    return [*pieces, text[start:]]


def save_fast(inner: tokenizers.Tokenizer, specials: Mapping[str, int], folder: Path, *, splits: bool = False, opens: bool = True) -> None:
    """As FastTokenizer.save."""
    folder.mkdir(parents=True, exist_ok=True)
    roles = {_ROLES[name]: inner.id_to_token(index) for name, index in specials.items() if name in _ROLES}
    (folder / "tokenizer.json").write_text(inner.to_str(pretty=True), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **roles}
    for name, data in (
        ("tokenizer_config", config),
        ("special_tokens_map", roles),
        ("ingot", {"specials": dict(specials), "splits": splits, "opens": opens}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(data, indent=1), encoding="utf-8")


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json. Raises UserError when it is missing or not one."""
    if not path.is_file():
        raise UserError([Problem(str(path), "no such tokenizer file")])
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError([Problem(str(path), f"is not a tokenizer.json: {str(error).partition(chr(10))[0]}")]) from None


def read_specials(path: Path, inner: tokenizers.Tokenizer) -> tuple[dict[str, int], bool, bool]:
    """Special ids by role, whether long texts may be cut, and whether documents begin with a token of their own, as ``save`` wrote them.
    Raises UserError when they are not that."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        specials, splits, opens = dict(kept["specials"]), bool(kept["splits"]), bool(kept.get("opens", False))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError([Problem(str(path), "is not the description that belongs to a tokenizer.json")]) from None
    strange = [name for name, index in specials.items() if not isinstance(index, int) or inner.id_to_token(index) is None]
    if strange or "end" not in specials:
        raise UserError([Problem(str(path), f"gives {strange[0]!r} an id that the tokenizer lacks" if strange else "names no end token")])
    return specials, splits, opens


def token_of(name: str) -> str:
    """How a special of ours is spelled: ``mask`` is ``<|mask|>``."""
    return f"<|{name}|>"


def find_specials(inner: tokenizers.Tokenizer, declared: Mapping[str, Any]) -> dict[str, int]:
    """Special ids by role: as the configuration declares them, else by the usual spellings."""
    found = {}
    for role, key in _ROLES.items():
        value = declared.get(key)
        token = value.get("content") if isinstance(value, dict) else value
        candidates = ([token] if isinstance(token, str) else []) + list(_NAMES[role])
        index = next((index for item in candidates if (index := inner.token_to_id(item)) is not None), None)
        if index is not None:
            found[role] = int(index)
    return found


def byte_characters() -> list[str]:
    """The visible character that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in set(visible) else chr(next(others)) for byte in range(256)]


def without_merges(specials: Mapping[str, int]) -> tokenizers.Tokenizer:
    """Bytes as a byte-level vocabulary in order of the bytes, with specials after them."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={char: index for index, char in enumerate(byte_characters())}, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens([tokenizers.AddedToken(token_of(name), special=True, normalized=False) for name in specials])
    return inner


def _byte_counter(description: Mapping[str, Any]) -> Any:
    """A function token -> UTF-8 bytes it stands for, from how the tokenizer decodes."""
    kinds = json.dumps(description.get("decoder"))
    if '"ByteLevel"' in kinds:
        table = set(byte_characters())
        return lambda token: len(token) if set(token) <= table else len(token.encode())
    if '"WordPiece"' in kinds:
        prefix = (description.get("decoder") or {}).get("prefix", "##")
        return lambda token: len(token.removeprefix(prefix).encode())
    bytes_fallback = re.compile(r"<0x[0-9A-F]{2}>")
    return lambda token: 1 if bytes_fallback.fullmatch(token) else len(token.replace("▁", " ").encode())
