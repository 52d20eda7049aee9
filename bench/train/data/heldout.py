"""Held-out prompts: the built-in questions, and other prompts to fit a method's settings on.

``python -m bench.train.data.heldout`` writes the built-in questions: held-out dialogues of the corpus, 80 for
each Spec-Bench subtask, in a format of `bench.tasks.prompt_files`. The file is shipped, so every installation
has the same questions. Prompts for fitting are held out as well, and none of them is a built-in question.

Shapes: P prompt tokens, T tokens of a prompt with its answer.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from bench.records.model import Prompt
from bench.runtime.sampling import Sampler, Sampling
from bench.tasks.chat import ChatFormat
from bench.tasks.prompt_files.files import PromptFile
from bench.tasks.prompt_files.reader import first_turn, read_prompts
from bench.tasks.spec_bench import BUILTIN_FILE
from bench.train.corpus import Dialogue, heldout_dialogues
from methods.core.base import Budget, Method, NoClock

log = logging.getLogger(__name__)
PER_SUBTASK = 80
SEED = 0


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt and the target's greedy answer to it, as one text.

    Args:
        ids: Token ids, shape [T].
        start: Index of the first answer token.
    """

    ids: Tensor
    start: int


def heldout_prompts(
    path: str | None, chat: ChatFormat, seed: int, per_subtask: int, device: torch.device
) -> list[Tensor]:
    """Prompts to fit a method's settings on, each as ids of shape [P].

    Args:
        path: File of prompts, see `bench.tasks.prompt_files`, of which the first turns are taken; None takes
            held-out dialogues of the embedded model's corpus, without the built-in questions.
        chat: The model's chat format.
        seed: Seed of the choice.
        per_subtask: Prompts of each subtask or, in a file, of each category.
        device: Device of the ids.

    Raises:
        UserError: If the file cannot be read.
    """
    if path is None:
        requests = [Prompt("", "", (turn,)) for turn in _corpus_turns(seed, per_subtask)]
    else:
        read = read_prompts(PromptFile(path, "prompts"))
        requests = _chosen([first_turn(prompt) for prompt in read.prompts], seed, per_subtask)
    ids = [chat.ids_of(request) for request in requests]
    return [torch.tensor(prompt, device=device) for prompt in ids]


def _chosen(requests: list[Prompt], seed: int, per_category: int) -> list[Prompt]:
    """Up to `per_category` of every category at random, category by category."""
    groups: dict[str, list[Prompt]] = {}
    for request in requests:
        groups.setdefault(request.subtask, []).append(request)
    draw = Random(seed)
    return [
        request
        for category in sorted(groups)
        for request in draw.sample(groups[category], min(per_category, len(groups[category])))
    ]


def _corpus_turns(seed: int, per_subtask: int) -> list[str]:
    """First turns of held-out dialogues that are no built-in questions."""
    builtin = {dialogue.turns[0] for dialogue in heldout_dialogues(SEED, PER_SUBTASK)}
    turns = [dialogue.turns[0] for dialogue in heldout_dialogues(seed, per_subtask)]
    return [turn for turn in turns if turn not in builtin]


@torch.inference_mode()
def continue_greedily(method: Method, prompt: Tensor, tokens: int, eos_ids: frozenset[int]) -> Continuation:
    """The target's own answer of at most `tokens` tokens, decoded with any exact method."""
    budget = Budget(tokens, eos_ids)
    result = method.generate(prompt, budget, Sampler(Sampling(), prompt.device, 0), NoClock())
    answer = torch.tensor(result.cut(tokens, eos_ids).ids, device=prompt.device)
    return Continuation(torch.cat([prompt, answer]), prompt.numel())


def write_builtin_prompts(path: Path = BUILTIN_FILE) -> int:
    """Write the file of built-in questions; returns their number."""
    counts: dict[str, int] = {}
    lines = []
    for dialogue in heldout_dialogues(SEED, PER_SUBTASK):
        number = counts.setdefault(dialogue.subtask, 0)
        counts[dialogue.subtask] += 1
        lines.append(json.dumps(_record(dialogue, number), ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _record(dialogue: Dialogue, number: int) -> dict[str, object]:
    return {
        "id": f"{dialogue.subtask}-{number:03d}",
        "subtask": dialogue.subtask,
        "turns": dialogue.turns,
        "references": dialogue.answers,
        "checks": dialogue.checks,
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("%d prompts in %s", write_builtin_prompts(), BUILTIN_FILE)
