"""What both readers of GGUF files share: a walk that refuses counts and lengths which a file cannot hold, and
the number of tokens.

The library `gguf` believes those counts: one damaged byte makes it run through 10^12 elements that it lacks.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from gguf import GGUFValueType, TokenType

from bench.errors import UserError

TOKEN_KINDS = "tokenizer.ggml.token_type"
"""Key of the list that says of every token what kind it is."""
_MAGIC = b"GGUF"
_STRING, _ARRAY = GGUFValueType.STRING, GGUFValueType.ARRAY
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type in the file."""
_MOST_DIMENSIONS = 4
_LEAST_PAIR, _LEAST_TENSOR = 13, 24


def used_tokens(kinds: Sequence[int]) -> int | None:
    """Tokens of a tokenizer, without the unused ones after them; None if there are none.

    llama.cpp's converter fills the rows of the embedding that the tokenizer does not need with unused tokens.

    Args:
        kinds: Of every token, the list called `TOKEN_KINDS`.
    """
    used = [place for place, kind in enumerate(kinds) if kind != TokenType.UNUSED]
    return used[-1] + 1 if used else None


def require_bounded(path: Path) -> None:
    """Refuse a file whose header does not fit into it.

    Raises:
        UserError: If it does not.
    """
    with path.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            return  # the library says what is wrong
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                _Walk(content).header()
            except (struct.error, ValueError) as error:
                raise UserError(
                    f"{path} cannot be read as GGUF: {error}",
                    "download it again; it is damaged, cut short or newer than the installed gguf package",
                ) from error


class _Walk:
    """A place in the file that moves from value to value."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._size = content, len(content)
        self._place = len(_MAGIC)

    def header(self) -> None:
        version = self._number("<I")
        if not 2 <= version <= 3:  # another byte order or version, which the library refuses
            return
        tensors, pairs = self._number("<Q"), self._number("<Q")
        self._require(tensors * _LEAST_TENSOR + pairs * _LEAST_PAIR)
        for _ in range(pairs):
            self._string()
            self._value(self._number("<I"))
        for _ in range(tensors):
            self._string()
            dimensions = self._number("<I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor has {dimensions} dimensions")
            self._skip(8 * dimensions + 4 + 8)

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            kind, count = self._number("<I"), self._number("<Q")
            if kind in _BYTES:
                self._skip(_BYTES[kind] * count)
                return
            self._require(8 * count)
            for _ in range(count):
                self._value(kind)
        elif kind in _BYTES:
            self._skip(_BYTES[kind])
        else:
            raise ValueError(f"there is no type {kind}")

    def _string(self) -> None:
        self._skip(self._number("<Q"))

    def _number(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self._content, self._place)
        self._skip(struct.calcsize(layout))
        return int(value)

    def _skip(self, count: int) -> None:
        self._require(count)
        self._place += count

    def _require(self, count: int) -> None:
        if count > self._size - self._place:
            raise ValueError(f"{count} bytes are announced where {self._size - self._place} are left")
