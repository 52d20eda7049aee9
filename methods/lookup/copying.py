"""Chain drafts copied from the text so far: what prompt lookup and SAM-Decoding share.

The text (prompt and output) is searched for an earlier occurrence of its own end; what followed there is the
draft. A method supplies the searchable text; this class feeds it the prompt and every emitted token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sized
from typing import Protocol

import torch
from torch import Tensor

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
        """A searchable text that starts with these tokens."""

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._text = self.new_text(prompt_ids.tolist())
        return super().prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        if base == len(self._text):  # the first root, picked by the prefill; `commit` appends the later ones
            self._text.extend(root.tolist())
        limit = min(self._draft_length, room)
        copied = self._text.continuation(limit)
        tokens = upload(torch.tensor(copied, dtype=root.dtype), root.device)
        stop_at_limit = "length" if self._draft_length <= room else "budget"
        return Draft(tokens, stop_at_limit if len(copied) == limit else "match")

    def commit(self, emitted: Tensor, base: int) -> None:
        """Append the emitted tokens to the text."""
        self._text.extend(emitted.tolist())
