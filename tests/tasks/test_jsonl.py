"""The JSONL format: every accepted shape, and a message with file and line for every mistake."""

import gzip
import json
import os
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.tasks.jsonl import JsonlTask
from bench.tasks.prompt_files.files import PromptFile
from bench.tasks.prompt_files.reader import parse_questions, read_prompts
from bench.tasks.task import SourceName


def turns_of(row: object) -> tuple[str, ...]:
    return parse_questions(json.dumps(row).encode(), "my.jsonl").prompts[0].turns


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"prompt": "Q"}, ("Q",)),
        ({"question": "Q", "answer": "A"}, ("Q",)),
        ({"turns": ["Q", "R"]}, ("Q", "R")),
        ({"instruction": "Do", "output": "A"}, ("Do",)),
        ({"instruction": "Do", "input": "this"}, ("Do\n\nthis",)),
        ({"instruction": "Do", "input": "", "context": "that"}, ("Do\n\nthat",)),
        ({"messages": [{"role": "user", "content": "Q"}]}, ("Q",)),
        ({"prompt": "Q", "turns": None}, ("Q",)),
    ],
    ids=["prompt", "question", "turns", "instruction", "alpaca", "dolly", "messages", "null is absent"],
)
def test_a_line_may_hold_its_text_in_any_usual_shape(row: object, turns: tuple[str, ...]) -> None:
    assert turns_of(row) == turns


def test_ids_subtasks_references_and_checks_are_read() -> None:
    row = {"question_id": 81, "category": "qa", "prompt": "Q", "reference": "A", "checks": [{"kind": "open"}]}
    prompt = parse_questions(json.dumps(row).encode(), "f").prompts[0]
    assert (prompt.id, prompt.subtask, prompt.references, prompt.checks) == (
        "81",
        "qa",
        ("A",),
        ({"kind": "open"},),
    )


def test_several_answers_to_a_turn_become_one_reference_with_a_line_each() -> None:
    row = {"prompt": "Q", "references": [["A", "B"]]}
    assert parse_questions(json.dumps(row).encode(), "f").prompts[0].references == ("A\nB",)


def test_a_line_without_an_id_is_called_by_its_number() -> None:
    content = b'{"prompt": "Q"}\n\n{"prompt": "R"}\r\n'
    assert [prompt.id for prompt in parse_questions(content, "f").prompts] == ["1", "3"]


def test_unicode_line_separators_inside_a_text_do_not_end_the_line() -> None:
    assert parse_questions('{"prompt": "a\u2028b"}'.encode(), "f").prompts[0].turns == ("a\u2028b",)


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_questions(b'\xef\xbb\xbf{"prompt": "Q"}', "f").prompts[0].turns == ("Q",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "Q"', "not JSON"),
        ("[" * 100_000, "not JSON that can be read"),
        ('{"n": ' + "9" * 5000 + "}", "not JSON that can be read"),
        ('["Q"]', "must be a JSON object, got a list"),
        ('"Q"', "must be a JSON object, got text"),
        (
            '{"text": "Q"}',
            "need one of turns, prompt, question, instruction, messages, conversations, got keys text",
        ),
        ("{}", "got keys none"),
        ('{"prompt": "Q", "messages": []}', "ambiguous: keep one of prompt, messages"),
        ('{"prompt": " "}', "prompt: turn 1 is empty"),
        ('{"prompt": 3}', "prompt: turn 1 must be text, got a number"),
        ('{"turns": "Q"}', "turns must be a list, got text"),
        ('{"turns": []}', "turns is empty"),
        ('{"turns": ["Q", ""]}', "turns: turn 2 is empty"),
        ('{"instruction": "Do", "input": ["x"]}', "instruction: turn 1 must be text, got a list"),
        ('{"messages": ["Q"]}', "message 1 must be an object with role and content, got text"),
        (
            '{"messages": [{"role": "user", "content": "Q"}, {"role": "system", "content": "S"}]}',
            "message 2 has role 'system'; only the first message may have it",
        ),
        ('{"messages": [{"role": "system", "content": "S"}]}', "messages is empty"),
        ('{"prompt": "Q", "system": 3}', "system must be text, got a number"),
        ('{"prompt": "Q", "system": ""}', "system must be text, got an empty one"),
        (
            '{"system": "S", "messages": [{"role": "system", "content": "S"}, '
            '{"role": "user", "content": "Q"}]}',
            "the system message is ambiguous",
        ),
        ('{"prompt": "Q", "subtask": "\\ud800"}', "subtask holds half of a surrogate pair"),
        ('{"prompt": "Q", "id": "\\udc00"}', "id holds half of a surrogate pair"),
        ('{"prompt": "Q", "checks": [{}]}', "check 1: kind must be one of open, contains"),
        (
            '{"prompt": "Q", "checks": [{"kind": "number"}]}',
            "value must be a whole number, got None",
        ),
        ('{"prompt": "Q", "checks": [{"kind": "contains", "facts": 3}]}', "facts must be a list of texts"),
        (
            '{"prompt": "Q", "checks": [{"kind": "last_number", "value": "x"}]}',
            "value must be a number, got 'x'",
        ),
        ('{"messages": [{"role": "user"}]}', "messages: message 1 is empty, expected text as its content"),
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
        ('{"prompt": "Q", "id": 1.5}', "id must be text or a whole number"),
        ('{"prompt": "Q", "category": []}', "subtask must be text"),
        ('{"prompt": "Q", "references": ["A", "B"]}', r"references must number one per turn \(1\), got 2"),
        ('{"prompt": "Q", "references": [1]}', "references must be texts"),
        ('{"prompt": "Q", "checks": ["open"]}', "checks must be objects"),
        ('{"turns": ["Q", "R"], "checks": [{}]}', r"checks must number one per turn \(2\), got 1"),
    ],
    ids=lambda value: value[:40],
)
def test_a_malformed_line_is_named(line: str, problem: str) -> None:
    with pytest.raises(UserError, match=rf"my\.jsonl:2: .*{problem}"):
        parse_questions(b'{"prompt": "fine"}\n' + line.encode(), "my.jsonl")


def test_two_lines_must_not_share_an_id() -> None:
    with pytest.raises(UserError, match=r"f:3: id 'a' was used in line 1 already"):
        parse_questions(b'{"id": "a", "prompt": "Q"}\n{"prompt": "R"}\n{"id": "a", "prompt": "S"}', "f")


@pytest.mark.parametrize("content", [b"", b"\n \n"], ids=["empty", "blank lines"])
def test_a_file_without_prompts_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="holds no prompts"):
        parse_questions(content, "f")


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UserError, match="f:1: not UTF-8 text"):
        parse_questions('{"prompt": "für"}'.encode("latin-1"), "f")


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_prompts(PromptFile(str(tmp_path / "absent.jsonl")))
    with pytest.raises(UserError, match="is a directory"):
        read_prompts(PromptFile(str(tmp_path)))


def test_what_may_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="is not a regular file"):
            read_prompts(PromptFile(str(path)))


def test_the_home_of_an_unknown_user_is_no_file() -> None:
    with pytest.raises(UserError, match=r"~nosuchuser/my\.jsonl: no such file"):
        read_prompts(PromptFile("~nosuchuser/my.jsonl"))


def test_broken_gz_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "my.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"prompt": "Q"}')[:-6])
    with pytest.raises(UserError, match="broken gz"):
        read_prompts(PromptFile(str(file)))


def test_the_task_gives_its_name_to_lines_without_a_subtask(tmp_path: Path) -> None:
    file = tmp_path / "my.jsonl"
    file.write_text('{"prompt": "Q"}\n{"prompt": "R", "subtask": "poems"}')
    loaded = JsonlTask("jsonl", str(file), limit=2).load()
    assert [prompt.subtask for prompt in loaded.prompts] == ["jsonl", "poems"]
    assert (loaded.source.name, loaded.source.n, loaded.source.partial) == (SourceName.OWN, 2, False)
    assert JsonlTask("jsonl", str(file), ids=["2"]).load().source.partial


def test_the_task_needs_a_path() -> None:
    with pytest.raises(UserError, match=r"needs a file of prompts\nAdd task.path="):
        JsonlTask("jsonl")


@pytest.mark.parametrize(
    ("name", "n"),
    [("gsm8k/test.jsonl", 1319), ("humaneval/HumanEval.jsonl.gz", 164), ("koala/koala_test_set.jsonl", 180)],
)
def test_the_other_papers_sets_are_read_as_published(shared_data: Path, name: str, n: int) -> None:
    assert len(JsonlTask("jsonl", str(shared_data / name)).load().prompts) == n
