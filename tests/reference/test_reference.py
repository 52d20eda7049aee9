"""The baseline beside transformers: a checkpoint's own generation settings apply on neither side."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch

from bench.reference.comparison import Sides, decode_on_both_sides, random_prompts, side_by_side_text
from bench.tasks.tokenizer import ignored_generation_settings


@pytest.mark.parametrize(
    "settings", [{}, {"repetition_penalty": 1.3, "do_sample": True, "no_repeat_ngram_size": 2}]
)
def test_a_repetition_penalty_applies_on_neither_side(
    model: Path, tmp_path: Path, settings: dict[str, float]
) -> None:
    folder = copytree(model, tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    torch.manual_seed(0)
    result = decode_on_both_sides(Sides(folder, 12, 64), random_prompts(300, 2, 8))
    assert (result.equal, result.prompts) == (2, 2)
    is_named = "not applied" in side_by_side_text(result)
    assert is_named is bool(settings)


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("{}", ""),
        ('{"repetition_penalty": 1.0, "temperature": 0.7}', ""),
        ('{"repetition_penalty": 1.1, "min_length": 3}', "repetition_penalty=1.1, min_length=3"),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_what_is_not_applied_is_named(tmp_path: Path, text: str, ignored: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    assert ignored_generation_settings(tmp_path) == ignored
