"""The embedded mixture of experts: what it learns from, that it learns, and that the result decodes."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bench.errors import UserError
from bench.runtime.loading import load_decoder
from bench.train.mixture.cli import main
from bench.train.mixture.loop import train
from bench.train.mixture.recipe import MixtureRecipe
from bench.train.mixture.text import mixed, read_texts, split_texts
from tests.command import run_command
from tests.harness import ROOT
from tests.runtime.models import options

SMALL = {"layers": 2, "width": 32, "heads": 2, "experts": 4, "expert_width": 16, "batch_tokens": 512}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(ROOT / "bench/assets/tiny")
    return made


@pytest.fixture
def text(tmp_path: Path) -> Path:
    question = "Why is the sky blue on day {}? Nobody on the hill could tell me."
    lines = [{"turns": [question.format(day)]} for day in range(80)]
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello there."}]
    file = tmp_path / "text.jsonl"
    file.write_text("\n".join(map(json.dumps, [*lines, {"messages": messages}])))
    return file


def test_prompts_of_dialogues_weigh_less_and_questions_count_whole(
    text: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    pieces = read_texts([text], tokenizer, most=16)
    assert all(2 <= len(ids) == len(mask) <= 16 for ids, mask in pieces)
    assert all(pieces[0][1])
    ids, mask = pieces[-1]
    assert tokenizer.decode([token for token, counts in zip(ids, mask, strict=True) if counts]).startswith(
        "Hello there."
    )


def test_held_out_text_is_never_trained_on(text: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = read_texts([text], tokenizer, most=1000)
    trained, held = split_texts(pieces)
    assert len(held) == 3
    assert len(trained) + len(held) == len(pieces) == 81
    assert not {tuple(ids) for ids, _ in held} & {tuple(ids) for ids, _ in trained}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_share_of_real_text_is_as_configured(
    share: float, text: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    pieces = read_texts([text], tokenizer, most=1000)
    real = {tuple(ids) for ids, _ in pieces}
    drawn = list(islice(mixed(pieces, tokenizer, share, seed=3), 400))
    total = sum(len(ids) for ids, _ in drawn)
    assert sum(len(ids) for ids, _ in drawn if tuple(ids) in real) / total == pytest.approx(share, abs=0.02)


def test_a_line_of_another_kind_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text('{"turns": ["Why?"]}\n{"words": 3}')
    with pytest.raises(UserError, match="line 2 holds neither messages nor turns"):
        read_texts([file], tokenizer, most=10)


def test_a_short_training_learns_and_its_result_decodes(
    text: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    recipe = MixtureRecipe(minutes=0.02, warmup_steps=5, **SMALL)  # type: ignore[arg-type]
    figures = train(recipe, tokenizer, [text], tmp_path / "model")
    assert figures["steps"] > 3
    assert figures["loss"] < 7.6  # of equal chances: 7.62
    decoder = load_decoder(tmp_path / "model", options())
    assert decoder.config.moe is not None
    assert (decoder.config.moe.experts, decoder.config.moe.top_k) == (4, 2)
    with torch.inference_mode():
        assert bool(decoder.prefill(torch.arange(5)).isfinite().all())


def test_the_command_names_a_file_that_is_not_there() -> None:
    done = run_command(main, "text=[nowhere.jsonl]")
    assert done.returncode == 2
    assert "nowhere.jsonl, which is no file" in done.stderr
