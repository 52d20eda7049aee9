"""Answers in groups as padded tensors: what HAMburger's training takes at once.

Shapes: B answers, P longest prompt, G most groups of an answer, K largest group, M answer tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Groups:
    """Answers as the tuned model reads and writes them, right-padded.

    Args:
        tokens: Token ids of each entry, shape [B, S, K]; a prompt token is an entry of its own.
        sizes: Tokens of each entry, shape [B, S]; 1 on padding.
        positions: Rotary position of each entry, that of its last token, shape [B, S].
        reads: Entry that each group is predicted from, as an index into B x S, shape [N].
        targets: Token ids of each group, shape [N, K].
        target_sizes: Tokens of each group, shape [N].
        is_labelled: Whether the group's end is a label for the stop head, shape [N], bool.
        teacher: Rows of the untuned model that predict the answers' tokens, in their order, shape [M, d].
    """

    tokens: Tensor
    sizes: Tensor
    positions: Tensor
    reads: Tensor
    targets: Tensor
    target_sizes: Tensor
    is_labelled: Tensor
    teacher: Tensor

    @property
    def is_token(self) -> Tensor:
        """Which places of the groups hold a token, shape [N, K]."""
        places = torch.arange(self.targets.shape[1], device=self.targets.device)
        return places < self.target_sizes[:, None]

    @property
    def labels(self) -> Tensor:
        """Token ids of all groups one after another, shape [M]."""
        return self.targets[self.is_token]

    @property
    def teacher_rows(self) -> Tensor:
        """Row of the untuned model that predicts each of the `labels`, shape [M, d]."""
        places = self.is_token.flatten().cumsum(dim=0).view_as(self.targets) - 1
        return self.teacher[places[self.is_token]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with its prompt.

    Args:
        ids: Prompt and answer.
        prompt: Tokens of the prompt (P).
        sizes: Group sizes; they sum to the answer's length.
        is_labelled: Whether the groups' ends teach the stop head.
        teacher: Rows of the untuned model that predict the answer's tokens, shape [tokens, d].
    """

    ids: Sequence[int]
    prompt: int
    sizes: Sequence[int]
    is_labelled: bool
    teacher: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.ids) - self.prompt

    def __len__(self) -> int:
        """Entries: one for every token of the prompt, one for every group but the last."""
        return self.prompt + len(self.sizes) - 1


def collate(answers: Sequence[Answer], max_group: int, device: torch.device) -> Groups:
    """Lay answers out as entries: the prompt's tokens, then one entry a group but for the last one."""
    entries, reads, targets, labelled = [], [], [], []
    longest = max(len(answer) for answer in answers)
    for row, answer in enumerate(answers):
        groups, start = [], answer.prompt
        for size in answer.sizes:
            groups.append(list(answer.ids[start : start + size]))
            start += size
        entries.append([*([token] for token in answer.ids[: answer.prompt]), *groups[:-1]])
        reads += [row * longest + answer.prompt - 1 + index for index in range(len(groups))]
        targets += groups
        labelled += [answer.is_labelled] * len(groups)
    padded = [[*row, *([[0]] * (longest - len(row)))] for row in entries]
    sizes = torch.tensor([[len(one) for one in row] for row in padded], device=device)
    return Groups(
        tokens=torch.tensor([[_filled(one, max_group) for one in row] for row in padded], device=device),
        sizes=sizes,
        positions=sizes.cumsum(dim=1) - 1,
        reads=torch.tensor(reads, device=device),
        targets=torch.tensor([_filled(one, max_group) for one in targets], device=device),
        target_sizes=torch.tensor([len(one) for one in targets], device=device),
        is_labelled=torch.tensor(labelled, device=device),
        teacher=torch.cat([answer.teacher for answer in answers]),
    )


def _filled(tokens: Sequence[int], length: int) -> list[int]:
    return [*tokens, *([0] * (length - len(tokens)))]
