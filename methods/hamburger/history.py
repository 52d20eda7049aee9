"""What a HAMburger model sees of its answer: old groups as one entry each, the newest token by token.

The paper merges a group before it is read. With a delay, which is ours, a group is first read as its tokens
and is merged once that many newer groups have been read, so that the text just before a prediction, which
matters most, is not merged yet. The pass that reads a new group then also reads the oldest unmerged group as
one entry. That entry sees merged history alone, as in training, and replaces its group's tokens. The cache
still grows by one entry a pass.

Shapes: s tokens of a group, N slots from the first unmerged token on, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.rows import Rows
from bench.runtime.transfer import upload
from methods.core.trees import compact


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Ids of a group, shape [s], and the position of its last token."""

    ids: Tensor
    position: int

    def __len__(self) -> int:
        return self.ids.numel()


@dataclass(frozen=True, slots=True)
class _Slot:
    """A slot of the cache: its position, and the group whose token it holds; None for an entry."""

    position: int
    group: _Group | None


class History:
    """The part of a tuned model's cache that follows the prompt.

    Args:
        tuned: The model; its cache holds the prompt alone.
        merge: Makes one embedding [1, d] of the embeddings [s, d] of a group.
        delay: Newest groups that are kept as tokens; at 0 every group is merged before it is read.
        shift: Added to the position of every row, which is that of its (last) token.
    """

    def __init__(self, tuned: Decoder, merge: Callable[[Tensor], Tensor], delay: int, shift: int) -> None:
        self._tuned, self._merge = tuned, merge
        self._delay, self._shift = delay, shift
        self._newest: list[_Group] = []
        self._base = tuned.cache.length  # slots before it hold the prompt and merged groups
        self._slots: list[_Slot] = []  # all from there on

    def read(self, ids: Tensor, position: int, taps: dict[int, Tensor]) -> Tensor:
        """One pass over a group [s]; returns the row of its end, shape [1, d], which is the last of the taps.

        Args:
            ids: The group.
            position: That of its last token.
            taps: Filled as `Decoder.run_layers` does.
        """
        group = _Group(ids, position)
        self._newest.append(group)
        old = self._newest.pop(0) if len(self._newest) > self._delay else None
        count, rows = len(self._slots), []
        if old is not None and (old is group or len(old) > 1):
            rows.append(self._merge(self._tuned.embed(old.ids)))
            self._slots.append(_Slot(old.position, None))
        elif old is not None:  # a single token is already its own entry
            self._slots = [replace(slot, group=None) if slot.group is old else slot for slot in self._slots]
        if old is not group:
            rows.append(self._tuned.embed(ids))
            self._slots += [_Slot(position - back, group) for back in reversed(range(len(group)))]
        hidden = self._tuned.run_layers(torch.cat(rows), self._place(count), taps=taps)
        self._drop_merged()
        return hidden[-1:]

    def _place(self, first: int) -> Rows:
        """Place of the slots from `first` on. A token sees all slots before it, an entry only entries."""
        if len(self._slots) == 1:
            return self._tuned.placement.single(self._base, self._slots[0].position + self._shift)
        is_entry = torch.tensor([slot.group is None for slot in self._slots])
        is_kept = torch.tensor([self._is_kept(slot) for slot in self._slots])
        sees = torch.where(is_entry[:, None], is_entry, is_kept).tril()  # [N, N]
        depths = torch.tensor([slot.position for slot in self._slots]) + self._shift - self._base
        placement, device = self._tuned.placement, self._tuned.device
        return placement.tree(self._base, upload(depths, device), upload(sees, device), first=first)

    def _is_kept(self, slot: _Slot) -> bool:
        return slot.group is None or slot.group in self._newest

    def _drop_merged(self) -> None:
        """Free the slots of tokens whose group has been merged."""
        kept = [index for index, slot in enumerate(self._slots) if self._is_kept(slot)]
        if len(kept) < len(self._slots):
            compact(self._tuned.cache, self._base, kept)
            self._slots = [self._slots[index] for index in kept]
        while self._slots and self._slots[0].group is None:
            self._slots.pop(0)
            self._base += 1
