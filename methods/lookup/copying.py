"""Chain drafts copied from the text so far: what methods that look for an earlier match have in common.

A subclass brings a text that knows its matches; here prompt and output are put into it, token by token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sized
from typing import Protocol

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.transfer import upload
from methods.core.chain import ChainMethod, Draft


class GrowingText(Sized, Protocol):
    """A text that can be searched while it grows."""

    def extend(self, ids: Iterable[int]) -> None:
        """Append tokens."""

    def continuation(self, limit: int) -> list[int]:
        """At most `limit` tokens that followed an earlier match of the text's end; none without a match."""


class CopyingMethod(ChainMethod, ABC):
    """Chain speculation with tokens copied from a searchable text.

    Args:
        draft_length: Most tokens copied per round.
    """

    def __init__(self, draft_length: int) -> None:
        self._draft_length = draft_length

    @abstractmethod
    def new_text(self, ids: list[int]) -> GrowingText:
        """The text to begin with."""

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._text = self.new_text(prompt_ids.tolist())
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        if base == len(self._text):  # the prefill's token; later roots come in through commit
            self._text.extend(root.tolist())
        copied = self._text.continuation(min(self._draft_length, room))
        tokens = upload(torch.tensor(copied, dtype=root.dtype), root.device)
        return Draft(tokens, "length" if len(copied) == self._draft_length else "match")

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._decoder.step(torch.cat([root, draft.tokens]), base)

    def commit(self, emitted: Tensor, base: int) -> None:
        self._text.extend(emitted.tolist())
