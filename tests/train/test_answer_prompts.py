"""Prompts to answer: every format, and what is said about rows that cannot be read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.train.data.heldout import heldout_prompts
from bench.train.data.prompts import Request, read_requests
from tests.methods.small import CPU

SYSTEM = {"role": "system", "content": "Be brief."}
HI, HELLO, MORE = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "More"},
)


def said(*texts: str) -> list[dict[str, str]]:
    """Messages in ShareGPT's format, the human first."""
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> list[Request]:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_requests(str(path), **options)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question_id": 0, "category": "qa", "turns": ["Hi", "More"]}, Request("0", "qa", ("Hi", "More"))),
        ({"prompt": "Hi"}, Request("1", "", ("Hi",))),
        ({"messages": [HI]}, Request("1", "", ("Hi",))),
        (
            {"id": "m", "messages": [SYSTEM, HI, HELLO, MORE]},
            Request("m", "", ("More",), "Be brief.", (("Hi", "Hello."),)),
        ),
        ({"messages": [HI, HELLO]}, Request("1", "", ("Hi",))),
        ({"conversations": said("Hi", "Hello.", "More", "Yes?")}, Request("1", "", ("Hi", "More"))),
        (
            {"conversations": [{"from": "system", "value": "Be brief."}, *said("Hi")]},
            Request("1", "", ("Hi",), "Be brief."),
        ),
    ],
    ids=["turns", "prompt", "one message", "history and system", "answered already", "sharegpt", "system"],
)
def test_every_format_is_read(row: dict[str, Any], expected: Request, tmp_path: Path) -> None:
    assert read(tmp_path, row) == [expected]


def test_the_first_turn_only_can_be_kept(tmp_path: Path) -> None:
    assert read(tmp_path, {"turns": ["Hi", "More"]}, first_only=True) == [Request("1", "", ("Hi",))]


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.txt.gz"])
def test_plain_text_holds_a_prompt_per_line(name: str, tmp_path: Path) -> None:
    content = b"Why is the sky blue?\n\n[1, 2] is what?\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    requests = read_requests(str(tmp_path / name))
    assert [(request.id, request.turns) for request in requests] == [
        ("1", ("Why is the sky blue?",)),
        ("3", ("[1, 2] is what?",)),
    ]


def test_a_list_in_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"conversations": said("Hi")}, {"conversations": said("More")}]))
    assert [request.turns for request in read_requests(str(path))] == [("Hi",), ("More",)]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "Hi"}, "expected exactly one of turns, .*, conversations, got keys text"),
        ({"turns": [""]}, "turns: turn 1 is empty"),
        ({"id": "a", "turns": ["Hi"]}, "id 'a' was used in line 1 already"),
        ({"messages": "Hi"}, "messages must be a list of messages"),
        (
            {"messages": [{"role": "tool", "content": "Hi"}]},
            "messages: message 1 has role 'tool', expected one",
        ),
        (
            {"messages": [{"role": "user", "content": [1]}]},
            "messages: message 1 must have text as its content",
        ),
        ({"messages": [HELLO, HI]}, "messages must be of user and assistant in turn"),
        ({"messages": [HI, HELLO, SYSTEM, MORE]}, "a system message must be the first"),
        ({"conversations": said("Hi")[1:]}, "conversations holds no message of a human"),
        ({"conversations": ["Hi"]}, "conversations: message 1 must be an object with from and value"),
    ],
    ids=[
        "no text",
        "empty",
        "same id",
        "no list",
        "unknown role",
        "parts",
        "wrong order",
        "late system",
        "no human",
        "no object",
    ],
)
def test_an_unreadable_row_is_named_with_its_line(row: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"prompts\.jsonl:2: {what}"):
        read(tmp_path, {"id": "a", "turns": ["Hi"]}, row)


def test_what_is_no_json_is_told_about_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts.md"
    path.write_text("Why is the sky blue?\n")
    with pytest.raises(
        UserError, match=r"prompts\.md:1: not JSON.*\n.*one prompt per line in a file named \.txt"
    ):
        read_requests(str(path))


def test_prompts_to_fit_on_are_drawn_from_every_category(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"turns": [f"{name} {number}"], "category": name} for name in "ab" for number in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    class Bytes:
        """A chat format without template, a token per byte."""

        def prompt_ids(self, turns: Sequence[str], answers: Sequence[str], system: str) -> list[int]:
            return list(turns[0].encode())

    chat: Any = Bytes()
    first, again, other = (
        [bytes(ids.tolist()).decode() for ids in heldout_prompts(str(path), chat, seed, 2, CPU)]
        for seed in (1, 1, 3)
    )
    assert [text[0] for text in first] == ["a", "a", "b", "b"]
    assert first == again != other
