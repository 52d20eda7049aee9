"""Damaged records, answer files and question rows: refused in two lines that name the place, or no harm done.

Damages are drawn with a seed: a value of another kind in place of any field at any depth, a field that is
missing, a byte that flipped, a line that was cut. Whatever is read in spite of a damage must not change a
number.
"""

from __future__ import annotations

import copy
import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.records.codec import encode_sample, to_line
from bench.records.store import load_run, load_samples
from bench.report.answers import read_answers, write_answers
from bench.report.board import sections
from bench.report.build import csv_text
from bench.report.entries import entries
from bench.report.rescore import scores, scores_text, warnings
from bench.report.stored_runs import StoredRun
from bench.show.table import run_table
from bench.tasks.prompt_files.reader import parse_questions
from tests.report.boards import Plan, save, stored

WRONG: list[Any] = [
    None,
    True,
    -1,
    1.5,
    "x",
    "",
    [],
    {},
    [None],
    ["\ud800"],
    {"a": 1},
    float("nan"),
    float("inf"),
]
WRONG += [10**400, "\ud800", "\x00", "$\\frac{1}{$", [[[]]], "../../x", -(10**30)]
PLAN = Plan("kangaroo", questions=2, subtasks=("qa", "rag"), limit=None)
SEEDS = range(5)
PER_SEED = 40


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON tree, the first of every long list only."""
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def damaged(record: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """A copy with one value replaced by a wrong one or taken out, and its path."""
    made = copy.deepcopy(record)
    path = rng.choice(list(places(made)))
    holder: Any = made
    for key in path[:-1]:
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[path[-1]]
    else:
        holder[path[-1]] = rng.choice(WRONG)
    return made, path


def assert_two_lines(mistake: UserError, *named: str) -> None:
    """The message is one line, the fix another, and the message names the place."""
    what = mistake.what
    assert what
    assert mistake.fix
    assert "\n" not in what.strip()
    assert "\n" not in mistake.fix
    for name in named:
        assert name in what, (name, what)
    what.encode()  # can be printed


def assert_names_one_of(mistake: UserError, place: tuple[Any, ...]) -> None:
    """The message names the damaged field, or the one that holds it."""
    fields = [str(key).removesuffix("_version") for key in place if isinstance(key, str)]
    assert [field for field in fields if field in mistake.what], (fields, mistake.what)


def shown(run: StoredRun) -> str:
    """Everything that a report says of a run."""
    made = entries([run])
    return csv_text(sections(made)) + "".join(run_table(entry.summary) for entry in made)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_sample_is_refused_by_line_and_field_or_shown_without_a_fault(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    run = stored(PLAN)
    folder = save(run, tmp_path)
    path = folder / "samples.jsonl"
    lines = [to_line(sample) for sample in run.samples]
    for _ in range(PER_SEED):
        number = rng.randrange(len(lines))
        record, place = damaged(encode(run, number), rng)
        path.write_bytes(b"".join([*lines[:number], with_checksum(record), *lines[number + 1 :]]))
        try:
            samples = load_samples(folder)
        except UserError as mistake:
            assert_two_lines(mistake, f"samples.jsonl, line {number + 1}")
            assert_names_one_of(mistake, place)
            continue
        rest = [sample for sample in samples if sample.key != run.samples[number].key]
        assert set(map(str, rest)) >= {str(sample) for sample in others(run, number)}
        shown(replace(run, samples=tuple(samples)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_line_that_is_not_what_was_written_never_counts(seed: int, tmp_path: Path) -> None:
    """Flipped bytes and cut lines: the checksum tells."""
    rng = random.Random(seed)
    run = stored(PLAN)
    folder = save(run, tmp_path)
    path = folder / "samples.jsonl"
    content = b"".join(to_line(sample) for sample in run.samples)
    for _ in range(PER_SEED // 3):
        place = rng.randrange(len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(flipped))
        try:
            samples = load_samples(folder)
        except UserError as mistake:
            assert_two_lines(mistake, "samples.jsonl, line ")
        else:
            assert set(map(str, samples)) <= set(map(str, run.samples))
        path.write_bytes(content[:place])
        assert set(map(str, load_samples(folder))) <= set(map(str, run.samples))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_run_is_refused_by_field_or_shown_without_a_fault(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    run = stored(PLAN)
    folder = save(run, tmp_path)
    path = folder / "run.json"
    record = json.loads(path.read_text())
    for _ in range(PER_SEED):
        path.write_text(json.dumps(damaged(record, rng)[0]))
        try:
            shown(StoredRun(load_run(folder), run.samples))
        except UserError as mistake:
            assert_two_lines(mistake, "run.json")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_answer_is_refused_by_line_and_field_or_scored_without_a_fault(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    run = stored(PLAN)
    files = write_answers(run, tmp_path)
    lines = files[1].read_text().splitlines()
    baseline = read_answers(files[0])
    path = tmp_path / "damaged.jsonl"
    for _ in range(PER_SEED):
        number = rng.randrange(len(lines))
        record = damaged(json.loads(lines[number]), rng)[0]
        path.write_text("\n".join([*lines[:number], json.dumps(record), *lines[number + 1 :]]))
        try:
            answers = read_answers(path)
        except UserError as mistake:
            assert_two_lines(mistake, f"damaged.jsonl, line {number + 1}")
        else:
            scores_text(scores(answers, baseline, len), warnings(answers, baseline)).encode()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_question_is_refused_by_line_or_read_as_a_question(seed: int) -> None:
    rng = random.Random(seed)
    row = {
        "id": "q1",
        "category": "qa",
        "turns": ["Why?", "And then?"],
        "system": "Be brief.",
        "references": ["Because.", "Nothing."],
        "checks": [{"kind": "contains", "facts": ["a"], "forbid": ["b"]}, {"kind": "number", "value": 3}],
    }
    chat = {
        "question_id": 7,
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
    }
    for _ in range(PER_SEED):
        record = damaged(rng.choice([row, chat]), rng)[0]
        content = f'{{"prompt": "first"}}\n{json.dumps(record)}\n'.encode()
        try:
            prompts = parse_questions(content, "my.jsonl").prompts
        except UserError as mistake:
            assert_two_lines(mistake, "my.jsonl:2")
        else:
            first, second = prompts
            assert first.turns == ("first",)
            for text in (second.id, second.subtask, second.system, *second.turns, *second.references):
                text.encode()


def encode(run: StoredRun, number: int) -> dict[str, Any]:
    """One sample as JSON holds it."""
    record: dict[str, Any] = json.loads(json.dumps(encode_sample(run.samples[number])))
    return record


def with_checksum(record: dict[str, Any]) -> bytes:
    """A line that other code might have written: whatever it holds, its checksum is right."""
    text = json.dumps(record, separators=(",", ":"))
    return f'{text[:-1]},"crc32":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def others(run: StoredRun, number: int) -> list[Any]:
    """The samples but one."""
    return [sample for place, sample in enumerate(run.samples) if place != number]
