"""Real conversations for training: which messages count, which tokens are answers, the smallest run."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from bench.compose.components import resolve_path
from bench.errors import UserError
from bench.tasks.chat import ChatFormat
from bench.tasks.prompt_files.conversation import read_conversation
from bench.tasks.rows import PublishedRows
from bench.train.corpus.dialogue import Dialogue
from bench.train.data.conversations import Conversations, dialogue_ids, exchanges
from bench.train.data.tokenizer import encode_dialogue
from tests.train.test_train_cli import train

TURNS, ANSWERS = ("Hi", "What is two and two?"), ("Hello.", "Four, as ever.")


SYSTEM = {"role": "system", "content": "Be brief."}
MESSAGES = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def conversation(*messages: str) -> dict[str, Any]:
    """Messages of a human and a model in turn."""
    return {
        "conversations": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(messages)]
    }


@pytest.fixture
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(resolve_path("package:bench/assets/tiny"))


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


def conversations(path: str, **given: Any) -> Conversations:
    return Conversations(PublishedRows("json", rows=1), path=path, **given)


def test_a_dialogue_is_encoded_as_the_embedded_model_was_taught(tokenizer: Any) -> None:
    taught = Dialogue("mt_bench", TURNS, ANSWERS, ({}, {}))
    assert dialogue_ids(ChatFormat(tokenizer), TURNS, ANSWERS) == encode_dialogue(tokenizer, taught)


@pytest.mark.parametrize("template", ["auto", "raw"])
def test_only_the_answers_are_trained(tokenizer: Any, template: str) -> None:
    chat = ChatFormat(tokenizer, template)
    ids, mask = dialogue_ids(chat, TURNS, ANSWERS)
    trained = chat.text([token for token, is_answer in zip(ids, mask, strict=True) if is_answer])
    assert "".join(trained.split()) == "".join("".join(ANSWERS).split())
    first = chat.prompt_ids(TURNS[:1], ())
    assert ids[: len(first)] == first
    assert not any(mask[: len(first)])


def test_vicunas_answers_end_in_its_end_token(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    chat = ChatFormat(tokenizer, "vicuna")
    ids, mask = dialogue_ids(chat, TURNS, ANSWERS)
    trained = tokenizer.decode([token for token, is_answer in zip(ids, mask, strict=True) if is_answer])
    assert trained == " Hello.</s> Four, as ever.</s>"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (conversation("Q", "A", "R", "B"), (["Q", "R"], ["A", "B"])),
        ({"conversations": conversation("x", "Q", "A")["conversations"][1:]}, ([], [])),
        (conversation("Q", "A", "unanswered"), (["Q"], ["A"])),
        (conversation("Q", " "), ([], [])),
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
            (["Q"], ["A"]),
        ),
        ({"messages": []}, ([], [])),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, MESSAGES[1]]},
            (["Q"], ["A"]),
        ),
        ({"messages": [{"role": "user", "content": None}, *MESSAGES]}, (["Q"], ["A"])),
        ({"messages": [{"role": "user", "content": " Q\n"}, MESSAGES[1]]}, ([" Q\n"], ["A"])),
    ],
    ids=[
        "two turns",
        "begins with the model",
        "ends with a question",
        "empty answer",
        "role and content",
        "none",
        "parts",
        "null",
        "white space",
    ],
)
def test_only_answered_questions_count(row: dict[str, Any], expected: tuple[list[str], list[str]]) -> None:
    assert exchanges(read_conversation(row)) == expected


def test_end_tokens_of_a_cut_answer_are_not_learnt(tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer)
    ids, mask = dialogue_ids(chat, TURNS, ANSWERS)
    cut_ids, cut_mask = dialogue_ids(chat, TURNS, ANSWERS, is_cut=True)
    assert ids == cut_ids
    unlearnt = [ids[place] for place in range(len(ids)) if mask[place] != cut_mask[place]]
    assert unlearnt == [tokenizer.eos_token_id] * 2


@pytest.mark.parametrize(("keeps", "count"), [(False, 0), (True, 1)])
def test_the_system_message_is_part_of_the_prompts_where_wanted(
    keeps: bool, count: int, tmp_path: Path, tokenizer: Any
) -> None:
    path = write(tmp_path / "talk.json", {"messages": [SYSTEM, *MESSAGES]})
    chat = ChatFormat(tokenizer)
    ids, mask = next(conversations(path, keeps_system=keeps).stream(chat, 0))
    assert chat.text(ids).count("Be brief.") == count
    assert chat.text([ids[place] for place in range(len(ids)) if mask[place]]).strip() == "A"
    prompt = chat.prompt_ids(["Q"], [], "Be brief." if keeps else "")
    assert ids[: len(prompt)] == prompt


def test_epochs_repeat_all_conversations_in_another_order(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "talk.json", *(conversation(f"Q{i}", f"A{i}") for i in range(6)))
    chat, data = ChatFormat(tokenizer), conversations(path)
    ids = [tuple(ids) for ids, _ in islice(data.stream(chat, 0), 12)]
    assert set(ids[:6]) == set(ids[6:])
    assert ids[:6] != ids[6:]
    assert ids == [tuple(ids) for ids, _ in islice(data.stream(chat, 0), 12)]
    subset = [tuple(dialogue) for dialogue, _ in islice(conversations(path, draw=2).stream(chat, 0), 6)]
    assert len(set(subset)) == 2


def test_a_file_without_conversations_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "talk.json", {"turns": ["no answer"]})
    with pytest.raises(UserError, match=r"holds no conversation.*\nWrite rows such as"):
        next(conversations(path).stream(ChatFormat(tokenizer), 0))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "Hi"}, "no text; need one of turns, .*, conversations, got keys text"),
        ({"messages": MESSAGES, "prompt": "Q"}, "the text is ambiguous: keep one of prompt, messages"),
        ({"messages": ["Q"]}, "messages: message 1 must be an object with role and content, got text"),
    ],
    ids=["no text", "ambiguous", "no object"],
)
def test_a_row_that_cannot_be_read_is_named(
    row: dict[str, Any], what: str, tmp_path: Path, tokenizer: Any
) -> None:
    path = write(tmp_path / "talk.json", {"messages": MESSAGES}, row)
    with pytest.raises(UserError, match=rf"talk\.json, row 2: {what}"):
        list(islice(conversations(path).stream(ChatFormat(tokenizer), 0), 2))


def test_a_column_chooses_among_several_texts(tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "talk.json", {"messages": MESSAGES, "prompt": "Q"})
    assert next(conversations(path, column="messages").stream(ChatFormat(tokenizer), 0))


def test_modules_are_trained_on_conversations_by_one_command(tmp_path: Path) -> None:
    path = write(
        tmp_path / "talk.json", conversation("Hi", "Hello, how are you?"), conversation("Q", "A b c")
    )
    recipe = ["recipe=kangaroo", "recipe.steps=2", "recipe.batch=2"]
    got = train(
        "data=sharegpt", f"data.path={path}", *recipe, f"out={tmp_path / 'a'}", f"hydra.run.dir={tmp_path}"
    )
    assert got.returncode == 0, got.stderr
    assert json.loads((tmp_path / "a" / "module.json").read_text())["data"] == path
