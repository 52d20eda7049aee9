"""Writes the built-in prompts: ``python -m bench.train.builtin_prompts``.

They are held-out dialogues of the corpus, 80 for each Spec-Bench subtask, in the project's JSONL format:
`turns` are asked, `references` and `checks` judge the answers. The file is shipped, so that every
installation asks the same questions.
"""

import json
import logging
from pathlib import Path

from bench.tasks.spec_bench import BUILTIN_FILE
from bench.train.corpus import Dialogue, heldout_dialogues

log = logging.getLogger(__name__)
PER_SUBTASK = 80
SEED = 0


def write_builtin_prompts(path: Path = BUILTIN_FILE) -> int:
    """Write the file; the number of prompts."""
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
