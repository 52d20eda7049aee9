"""How training cuts answers into groups, and lays them out as padded tensors (arXiv 2505.20438).

The paper's segmentation: the untuned model reads the true answer. A group is an uncertain token and those
after it that are far more certain, or a run of near-certain tokens. Decoding needs none of this: the stop
head has learnt where groups end.

Shapes: B answers, S entries of the longest one, N groups of all answers, K largest group, M answer tokens, T
tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from methods.hamburger.draft import TrainingSettings


def entropies(logits: Tensor) -> Tensor:
    """Shannon entropy of each row's distribution in nats, computed in fp32, shape [T], from logits [T, V]."""
    logs = logits.float().log_softmax(dim=-1)
    return -(logs.exp() * logs).sum(dim=-1)


def segment(values: Sequence[float], max_group: int, floor: float, ratio: float) -> list[int]:
    """Sizes of the groups, left to right (the published strategy, ``decreasing_v2``).

    Args:
        values: Entropy of the model's prediction of each token, in nats.
        max_group: Most tokens of a group (K).
        floor: A token below this joins any group.
        ratio: A token below this share of the group's highest entropy joins it.

    Returns:
        Sizes that sum to ``len(values)``.
    """
    sizes: list[int] = []
    highest = 0.0
    for value in values:
        if sizes and sizes[-1] < max_group and (value < floor or value < ratio * highest):
            sizes[-1] += 1
            highest = max(highest, value)
        else:
            sizes.append(1)
            highest = value
    return sizes


def random_split(length: int, max_group: int, rng: Random) -> list[int]:
    """Groups of random sizes from 1 to `max_group` that sum to `length`."""
    sizes: list[int] = []
    while length > 0:
        sizes.append(min(length, rng.randint(1, max_group)))
        length -= sizes[-1]
    return sizes


def cut_answer(
    values: Sequence[float], settings: TrainingSettings, decoded: Callable[[], list[int]], rng: Random
) -> tuple[list[int], bool]:
    """Group sizes of a training answer, and whether its groups teach the stop head where to end.

    Most answers are segmented by entropy, as in the paper. The others are ours and keep other groups
    familiar: groups of one keep the tuned model usable as a plain autoregressive decoder, the limit of a high
    confidence, and groups as decoding cuts them are the history that it will read. The stop head learns
    nothing from these.

    Args:
        values: Entropy of the untuned model's prediction of each token, in nats.
        settings: Shares and thresholds.
        decoded: Cuts the answer as decoding would.
        rng: Chooses the way it is cut.
    """
    draw = rng.random()
    if draw < settings.singles:
        return [1] * len(values), False
    if draw < settings.singles + settings.random_splits:
        return random_split(len(values), settings.max_group, rng), False
    if draw < settings.singles + settings.random_splits + settings.decoded_groups:
        return decoded(), False
    return segment(values, settings.max_group, settings.floor, settings.ratio), True


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
        """Entries: one for each token of the prompt, one for each group but the last."""
        return self.prompt + len(self.sizes) - 1


def collate(answers: Sequence[Answer], max_group: int, device: torch.device) -> Groups:
    """Answers as entries: the tokens of the prompt, then one entry for each group but the last."""
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
    sizes = torch.tensor([[len(entry) for entry in row] for row in padded], device=device)
    return Groups(
        tokens=torch.tensor([[_filled(entry, max_group) for entry in row] for row in padded], device=device),
        sizes=sizes,
        positions=sizes.cumsum(dim=1) - 1,
        reads=torch.tensor(reads, device=device),
        targets=torch.tensor([_filled(group, max_group) for group in targets], device=device),
        target_sizes=torch.tensor([len(group) for group in targets], device=device),
        is_labelled=torch.tensor(labelled, device=device),
        teacher=torch.cat([answer.teacher for answer in answers]),
    )


def _filled(tokens: Sequence[int], length: int) -> list[int]:
    return [*tokens, *([0] * (length - len(tokens)))]
