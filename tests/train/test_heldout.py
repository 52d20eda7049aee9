"""Prompts to fit a method's settings on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.records.model import Prompt
from bench.train.data.heldout import heldout_prompts
from tests.methods.small import CPU


class Bytes:
    """A chat format without template, a token per byte."""

    def ids_of(self, prompt: Prompt) -> list[int]:
        return list(prompt.turns[0].encode())


def test_prompts_to_fit_on_are_drawn_from_every_category(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"turns": [f"{name} {number}"], "category": name} for name in "ab" for number in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat: Any = Bytes()
    first, again, other = (
        [bytes(ids.tolist()).decode() for ids in heldout_prompts(str(path), chat, seed, 2, CPU)]
        for seed in (1, 1, 3)
    )
    assert [text[0] for text in first] == ["a", "a", "b", "b"]
    assert first == again != other
