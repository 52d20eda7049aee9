"""Files of prompts in every format: what is asked of a row, and what is said about what cannot be read."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from bench.errors import UserError
from bench.records.model import Message, Prompt
from bench.tasks.prompt_files.files import Format, PromptFile
from bench.tasks.prompt_files.reader import first_turn, read_prompts
from tests.harness import ROOT

SYSTEM = {"role": "system", "content": "Be brief."}
HI, HELLO, MORE = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "More"},
)
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
READ_CALL = {**CALL, "function": {"name": "look", "arguments": {"at": "it"}}}
SEEN = {"role": "tool", "tool_call_id": "c1", "content": "Seen."}
TOOL = {"type": "function", "function": {"name": "look"}}
CHAT = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "More"))


def said(*texts: str) -> list[dict[str, str]]:
    """Messages in ShareGPT's format, the human first."""
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def read(path: Path, content: str | bytes, **options: Any) -> tuple[Prompt, ...]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_prompts(PromptFile(str(path), **options)).prompts


def read_lines(tmp_path: Path, *rows: object) -> tuple[Prompt, ...]:
    return read(tmp_path / "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question_id": 0, "category": "qa", "turns": ["Hi", "More"]}, Prompt("0", "qa", ("Hi", "More"))),
        ({"prompt": " Hi\n"}, Prompt("1", "", (" Hi\n",))),
        ({"system": "Be brief.", "prompt": "Hi"}, Prompt("1", "", ("Hi",), system="Be brief.")),
        ({"messages": [HI]}, Prompt("1", "", ("Hi",))),
        ([HI], Prompt("1", "", ("Hi",))),
        ({"messages": [SYSTEM, HI]}, Prompt("1", "", ("Hi",), system="Be brief.")),
        (
            {"id": "m", "messages": [SYSTEM, HI, HELLO, MORE]},
            Prompt("m", "", ("More",), system="Be brief.", opening=CHAT),
        ),
        ({"messages": [HI, HELLO]}, Prompt("1", "", ("Hi",))),
        ({"messages": [HI, MORE]}, Prompt("1", "", ("More",), opening=(CHAT[0], CHAT[2]))),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, "you"]}]},
            Prompt("1", "", ("Hi\nyou",)),
        ),
        ({"messages": [{"role": "developer", "content": "S"}, HI]}, Prompt("1", "", ("Hi",), system="S")),
        (
            {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}, SEEN, HELLO]},
            Prompt(
                "1",
                "",
                ("Seen.",),
                opening=(
                    CHAT[0],
                    Message("assistant", "", {"tool_calls": [READ_CALL]}),
                    Message("tool", "Seen.", {"tool_call_id": "c1"}),
                ),
            ),
        ),
        ({"messages": [HI], "tools": [TOOL]}, Prompt("1", "", ("Hi",), tools=(TOOL,))),
        ({"conversations": said("Hi", "Hello.", "More", "Yes?")}, Prompt("1", "", ("Hi", "More"))),
        (
            {"conversations": [{"from": "system", "value": "Be brief."}, *said("Hi")]},
            Prompt("1", "", ("Hi",), system="Be brief."),
        ),
    ],
    ids=[
        "turns",
        "prompt",
        "system key",
        "one message",
        "bare list",
        "system message",
        "history and system",
        "answered already",
        "two of the user",
        "parts",
        "developer",
        "tool",
        "tools",
        "sharegpt",
        "sharegpt system",
    ],
)
def test_every_shape_of_a_row_is_read(row: object, expected: Prompt, tmp_path: Path) -> None:
    assert read_lines(tmp_path, row) == (expected,)


def test_the_first_turn_only_can_be_kept() -> None:
    prompt = Prompt("1", "", ("Hi", "More"), ("A", "B"), ({"kind": "open"}, {"kind": "open"}))
    assert first_turn(prompt) == Prompt("1", "", ("Hi",), ("A",), ({"kind": "open"},))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "Hi"}, "no text; need one of turns, .*, conversations, got keys text"),
        ({"prompt": None}, "no text; prompt must hold some, got nothing"),
        ({"turns": [""]}, "turns: turn 1 is empty"),
        ({"turns": ["Hi", ""]}, "turns: turn 2 is empty"),
        ({"turns": "Hi"}, "turns must be a list, got text"),
        ({"id": "a", "turns": ["Hi"]}, "id 'a' was used in line 1 already"),
        ({"messages": [HI], "prompt": "Hi"}, "the text is ambiguous: keep one of prompt, messages"),
        ({"messages": [HI], "conversations": said("Hi")}, "the text is ambiguous: keep one of messages, con"),
        ({"messages": "Hi"}, "messages must be a list, got text"),
        ({"messages": [3]}, "messages: message 1 must be an object with role and content, got a number"),
        ({"messages": [{"content": "Hi"}]}, "messages: message 1 must have text as its role, got null"),
        (
            {"messages": [SYSTEM, {"role": "critic", "content": "Hi"}]},
            "messages: message 2 has role 'critic', expected one of system, developer, user",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages: message 1: content: part 1 has type 'image_url'; only parts of type text",
        ),
        ({"messages": [{"role": "user", "content": [1]}]}, "message 1: content: part 1 must be text or"),
        (
            {"messages": [{"role": "user", "content": 1}]},
            "content must be text or a list of parts of",
        ),
        ({"messages": [HI, {**HELLO, "tool_calls": "x"}, MORE]}, "message 2: tool_calls must be a list"),
        (
            {"messages": [HI, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}, SEEN]},
            "message 2: tool_calls: call 1 has arguments that are no JSON",
        ),
        ({"messages": [HI, {"role": "assistant", "function_call": {}}, MORE]}, "message 2 has function_call"),
        ({"messages": [HI, HELLO, SYSTEM, MORE]}, "messages: message 3 has role 'system'; only the first"),
        ({"messages": [SYSTEM, HELLO]}, "messages holds nothing to answer; expected a message with role"),
        ({"messages": [SYSTEM]}, "messages is empty"),
        ({"conversations": said("Hi", "Hello")[1:]}, "conversations holds no message of a human"),
        ({"conversations": ["Hi"]}, "conversations: message 1 must be an object with from and value"),
        (
            {"conversations": [{"from": "tool", "value": "x"}]},
            "message 1 is of .tool., expected one of",
        ),
        ({"conversations": said("Hi"), "tools": [TOOL]}, "tools need a chat in OpenAI's format"),
        ("Hi", "must be a JSON object, got text"),
    ],
)
def test_an_unreadable_row_is_named_with_its_line(row: object, what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"prompts\.jsonl:2: .*{what}"):
        read_lines(tmp_path, {"id": "a", "turns": ["Hi"]}, row)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", " Why?\n\n[1, 2] is what?\r\n", [("1", (" Why?",)), ("3", ("[1, 2] is what?",))]),
        ("a.txt", '[1, 2] is what?\n{"a": 1}', [("1", ("[1, 2] is what?",)), ("2", ('{"a": 1}',))]),
        ("rows.txt", '{"prompt": "Hi"}\n', [("1", ("Hi",))]),
        ("a.json", '["Hi", {"id": "b", "prompt": "More"}]', [("1", ("Hi",)), ("b", ("More",))]),
        ("chat.json", json.dumps([HI, HELLO, MORE]), [("1", ("More",))]),
        ("chats.json", json.dumps([[HI], [MORE]]), [("1", ("Hi",)), ("2", ("More",))]),
        ("one.json", json.dumps({"turns": ["Hi"]}, indent=1), [("1", ("Hi",))]),
        ("any", '{"prompt": "Hi"}', [("1", ("Hi",))]),
        ("a.csv", 'Prompt,ID\n"Hi,\nyou",x\nMore,\n', [("x", ("Hi,\nyou",)), ("4", ("More",))]),
        ("a.csv", "question;category\nWhy?;qa\n", [("2", ("Why?",))]),
        ("a.tsv", "n\ttext\n1\tWhy?\n", [("2", ("Why?",))]),
        ("table", "id,question\na,Why?\n", [("a", ("Why?",))]),
    ],
    ids=[
        "text",
        "text like a list",
        "JSONL named .txt",
        "list",
        "one chat",
        "chats",
        "one object",
        "no suffix",
        "CSV",
        "semicolons",
        "TSV",
        "table without suffix",
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_file_is_recognised(
    name: str, content: str, expected: list[Any], is_packed: bool, tmp_path: Path
) -> None:
    raw = gzip.compress(content.encode()) if is_packed else content.encode()
    prompts = read(tmp_path / (name + ".gz" * is_packed), raw)
    assert [(prompt.id, prompt.turns) for prompt in prompts] == expected


def test_a_text_can_be_one_prompt_or_a_prompt_per_line(tmp_path: Path) -> None:
    text = "# Plan\n\nWrite it.  \n"
    (whole,) = read(tmp_path / "plan.md", text, format=Format.WHOLE)
    assert whole.turns == ("# Plan\n\nWrite it.  ",)
    lines = read(tmp_path / "plan.md", text, format=Format.LINES)
    assert [prompt.turns for prompt in lines] == [("# Plan",), ("Write it.  ",)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_column_can_be_named(name: str, tmp_path: Path) -> None:
    content = {"a.csv": "Frage,prompt\nWarum?,x\n", "a.jsonl": '{"Frage": "Warum?", "prompt": "x"}'}[name]
    (prompt,) = read(tmp_path / name, content, column="Frage")
    assert prompt.turns == ("Warum?",)


def test_a_named_column_may_hold_a_chat_or_turns(tmp_path: Path) -> None:
    rows = {"talk": [HI, HELLO, MORE]}, {"talk": said("Hi", "Hello.", "More")}, {"talk": ["Hi", "More"]}
    content = "".join(json.dumps(row) + "\n" for row in rows)
    prompts = read(tmp_path / "a.jsonl", content, column="talk")
    assert [prompt.turns for prompt in prompts] == [("More",), ("Hi", "More"), ("Hi", "More")]


@pytest.mark.parametrize(
    ("name", "content", "what", "fix"),
    [
        ("a.md", "Why?\n", "a.md:1: expected JSON, or a line with the names of columns", "task.format=lines"),
        ("a.jsonl", "Why?\n", "a.jsonl:1: not JSON: .*; expected an object", "one JSON object per line"),
        ("a.json", '[{"prompt": "Hi"},]', "a.json is not JSON", "one JSON object per line"),
        ("a.json", '["Hi", 3]', "a.json, row 2: must be a JSON object, got a number", ""),
        ("a.json", '[{"prompt": ""}]', "a.json, row 1: prompt: turn 1 is empty", "task.column=NAME"),
        ("a.csv", "name,age\nx,3\n", "a.csv:2: no text; need one of .*, got keys name, age", "task.column"),
        ("a.csv", "prompt,id\nHi,1,2\n", "a.csv:2: the row has 3 cells, expected 2", "in quotes"),
        ("a.csv", 'prompt,id\nHi,1\n"Hi,2\n', "a.csv:3: not a row of a table", "in quotes"),
        ("a.csv", "prompt,prompt\nHi,1\n", "a.csv:1: column 'prompt' is named twice", ""),
        ("a.csv", "prompt,id\n,1\n", "a.csv:2: no text; prompt must hold some", ""),
        ("a.txt", "\n", "a.txt holds no prompts", ""),
        ("a.csv", "prompt,id\n", "a.csv holds no prompts", ""),
        ("a.txt", b"fine\nf\xfcr", "a.txt:2: not UTF-8 text", "Save the file as UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(
    name: str, content: str | bytes, what: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"{what}.*\n.*{fix}"):
        read(tmp_path / name, content, has_settings=True)


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.csv:2: no text in 'Frage'; the row has prompt, id"):
        read(tmp_path / "a.csv", "prompt,id\nHi,1\n", column="Frage")


def test_a_folder_of_datasets_is_read(tmp_path: Path) -> None:
    split = datasets.Dataset.from_list([{"messages": [HI, HELLO, MORE]}, {"messages": [HI]}])
    split.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": split}).save_to_disk(tmp_path / "whole")
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "both")
    expected = [("1", ("More",), CHAT), ("2", ("Hi",), ())]
    files = [read_prompts(PromptFile(str(tmp_path / name))) for name in ("one", "whole", "both/test")]
    for file in files:
        assert [(prompt.id, prompt.turns, prompt.opening) for prompt in file.prompts] == expected
    assert len({file.sha256 for file in files}) == 1
    with pytest.raises(UserError, match=r"several splits: train, test\n.*task\.path=.*both/train"):
        read_prompts(PromptFile(str(tmp_path / "both")))
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(UserError, match="is a broken folder of datasets"):
        read_prompts(PromptFile(str(tmp_path / "one")))


def test_files_are_read_without_torch(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"prompt": "Hi"}]).save_to_disk(tmp_path / "saved")
    (tmp_path / "a.csv").write_text("prompt,id\nHi,1\n")
    code = (
        "import sys\n"
        "from bench.tasks.prompt_files.files import PromptFile\n"
        "from bench.tasks.prompt_files.reader import read_prompts\n"
        "for path in sys.argv[1:]: read_prompts(PromptFile(path))\n"
        "sys.exit('torch' in sys.modules)"
    )
    paths = [str(tmp_path / name) for name in ("saved", "a.csv")]
    assert subprocess.run([sys.executable, "-c", code, *paths], cwd=ROOT).returncode == 0


COMMANDS = {
    "bench.cli": ["task=jsonl", "task.path=mine.jsonl"],
    "bench.train.answers.cli": ["prompts=mine.jsonl"],
    "bench.train.cli": ["data=answers", "data.path=mine.jsonl"],
}
"""Every command that reads prompts, with arguments that name a file."""
ALL_OF_THEM = f"""
import importlib, sys
from hydra.core.global_hydra import GlobalHydra
for module, arguments in {COMMANDS}.items():
    sys.argv = [module, *arguments, "model=tiny", "hydra.run.dir=hydra"]
    GlobalHydra.instance().clear()
    try:
        importlib.import_module(module).main()
    except SystemExit as stopped:
        print(module, stopped.code, "torch" in sys.modules)
"""


def test_a_mistake_in_a_file_is_said_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Hi"}\n{"turns": "Hi"}\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = [sys.executable, "-c", ALL_OF_THEM]
    done = subprocess.run(process, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{module} 2 False" for module in COMMANDS]
    told = "error: mine.jsonl:2: turns must be a list, got text\nfix: Write one JSON object"
    assert done.stderr.count(told) == len(COMMANDS), done.stderr
