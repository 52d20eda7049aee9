"""Prompts to fit a method to a model on: in no training set and in no task."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.tasks.chat import ChatFormat
from bench.train.builtin_prompts import PER_SUBTASK, SEED
from bench.train.corpus import heldout_dialogues


def heldout_prompts(chat: ChatFormat, seed: int, per_subtask: int, device: torch.device) -> list[Tensor]:
    """First turns of held-out dialogues, none of them a built-in prompt, each as ids of shape [P].

    Args:
        chat: The model's chat format.
        seed: Choice of the dialogues.
        per_subtask: Dialogues of each subtask, before built-in prompts are left out.
        device: Where the ids go.
    """
    asked = {dialogue.turns[0] for dialogue in heldout_dialogues(SEED, PER_SUBTASK)}
    turns = [dialogue.turns[0] for dialogue in heldout_dialogues(seed, per_subtask)]
    return [torch.tensor(chat.prompt_ids((turn,), ()), device=device) for turn in turns if turn not in asked]
