"""The header of a GGUF file, read in a tenth of a second.

The library `gguf` makes an array of every token and takes seconds for a vocabulary of fifty thousand;
`bench.runtime.gguf` reads the file with it when the weights are needed.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGUFValueType
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from bench.errors import UserError
from bench.runtime.gguf_header import TOKEN_KINDS, require_bounded, used_tokens
from bench.runtime.tensor_header import hash_pieces

_LAYOUTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How `struct` spells a value, by its type in the file."""
_STRING, _ARRAY = GGUFValueType.STRING, GGUFValueType.ARRAY
_ALIGNMENT = "general.alignment"
_DAMAGED = "download it again; it is damaged, cut short or newer than the installed gguf package"


@dataclass(frozen=True, slots=True)
class GgufEntry:
    """One tensor of the file: its shape, outputs last, its first byte and the one after its last."""

    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands in the header.

    Args:
        path: The file.
        metadata: Single values by key; of the lists, only the kinds of the tokens are kept.
        tensors: By their names in the file.
        header_bytes: Where the first tensor begins.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufEntry]
    header_bytes: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def tokens(self) -> int | None:
        """`used_tokens` of the tokenizer; None if the file holds none."""
        return used_tokens(self.metadata.get(TOKEN_KINDS, ()))

    def hash(self) -> str:
        """64 hex digits over the header, the file's size, and pieces of every tensor."""
        with self.path.open("rb") as opened:
            digest = hashlib.sha256(opened.read(self.header_bytes))
            digest.update(str(self.path.stat().st_size).encode())
            for tensor in self.tensors.values():
                hash_pieces(digest, opened, tensor.start, tensor.stop)
        return digest.hexdigest()


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of a file; a file that was read before and has not changed is not read again.

    Raises:
        UserError: If the file is damaged.
    """
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, changed_ns: int, size: int) -> GgufHeader:
    require_bounded(path)
    try:
        with (
            path.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _Reader(content).header(path)
    except (struct.error, ValueError, KeyError, OSError, ArithmeticError) as error:
        raise UserError(f"{path} cannot be read as GGUF: {error}", _DAMAGED) from error


class _Reader:
    """A place in the file that moves from value to value."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._place = content, len(b"GGUF")

    def header(self, path: Path) -> GgufHeader:
        if self._content[: self._place] != b"GGUF" or self._number("I") not in (2, 3):
            raise ValueError("it has another first word, byte order or version")
        tensors, pairs = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text()
            value = self._value(self._number("I"), is_kept=key == TOKEN_KINDS)
            if value is not None:
                metadata[key] = value
        infos = [self._tensor() for _ in range(tensors)]
        alignment = int(metadata.get(_ALIGNMENT, 32))
        data = -(-self._place // alignment) * alignment
        entries = {
            name: GgufEntry(shape, data + start, data + start + size) for name, shape, start, size in infos
        }
        return GgufHeader(path, metadata, entries, data)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, place in the data and bytes of a tensor."""
        name = self._text()
        shape = tuple(self._number("Q") for _ in range(self._number("I")))
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("I"))]
        return name, shape, self._number("Q"), prod(shape) // block * block_bytes

    def _value(self, kind: int, *, is_kept: bool) -> Any:  # noqa: ANN401 - of any type that a file holds
        """A value; None for a list that is not kept."""
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._numbers(kind, 1)[0]
        kind, count = self._number("I"), self._number("Q")
        if kind in _LAYOUTS:
            numbers = self._numbers(kind, count)
            return numbers if is_kept else None
        for _ in range(count):
            self._value(kind, is_kept=False)
        return None

    def _numbers(self, kind: int, count: int) -> tuple[Any, ...]:
        layout = f"<{count}{_LAYOUTS[kind]}"
        numbers = struct.unpack_from(layout, self._content, self._place)
        self._place += struct.calcsize(layout)
        return numbers

    def _number(self, layout: str) -> int:
        (number,) = struct.unpack_from(f"<{layout}", self._content, self._place)
        self._place += struct.calcsize(f"<{layout}")
        return int(number)

    def _text(self) -> str:
        size = self._number("Q")
        self._place += size
        return self._content[self._place - size : self._place].decode("utf-8", errors="replace")
