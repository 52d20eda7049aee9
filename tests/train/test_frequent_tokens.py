"""Lists of frequent tokens: what is counted, the order, what is always in, and the file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.errors import UserError
from bench.runtime.checkpoint_files import resolve
from bench.runtime.sampling import DraftVocab, read_frequent_tokens
from bench.tasks.chat import ChatFormat
from bench.tasks.prompt_files.faults import NumberedRow
from bench.tasks.tokenizer import load_tokenizer
from bench.train.frequent_tokens.cli import FrequentTokensConfig, _as_text, list_tokens
from bench.train.frequent_tokens.counting import Counts, by_frequency, count_tokens, coverage

TINY = "package:bench/assets/tiny"
VOCABULARY = 2048


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(load_tokenizer(resolve(TINY, None)))


def conversation(question: str, answer: str, **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


def numbered(row: dict[str, object]) -> list[NumberedRow]:
    return [NumberedRow(1, "answers.jsonl:1", row)]


def save(path: Path, rows: Sequence[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(length: int | None = None) -> FrequentTokensConfig:
    return FrequentTokensConfig("unused", None, ModelConfig(path=TINY), RuntimeConfig(device="cpu"), length)


def test_a_token_in_an_answer_counts_as_eight_in_prompts_and_ties_go_to_the_lower_id() -> None:
    counts = Counts(Counter({5: 2, 3: 2, 9: 7}), Counter({8: 15, 3: 1, 0: 16}))
    assert list(by_frequency(counts, [6], 10)) == [6, 9, 3, 0, 5, 8, 1, 2, 4, 7]
    assert coverage(counts, [9, 3]) == pytest.approx(9 / 11)


def test_answers_count_with_their_end_and_prompts_apart(chat: ChatFormat) -> None:
    end = chat.tokenizer.eos_token_id
    whole = count_tokens(chat, numbered(conversation("Where is the river?", "Near the town.")))
    ids = chat.tokenizer("Near the town.", add_special_tokens=False)["input_ids"]
    assert whole.answers.total() - len(ids) in (0, 1), "the first token may join the white space before it"
    assert whole.answers[end] == 1
    assert whole.conversations == 1
    cut = count_tokens(chat, numbered(conversation("Where is the river?", "Near the town.", ended=False)))
    assert cut.answers[end] == 0
    assert count_tokens(chat, numbered({"messages": []})) == Counts()
    alone = count_tokens(chat, [], ["Near the town."])
    assert (alone.prompts, alone.answers.total(), alone.conversations) == (Counter(ids), 0, 0)


def test_a_list_names_its_origin_and_serves_any_number_up_to_its_length(tmp_path: Path) -> None:
    answers = save(tmp_path / "answers.jsonl", [conversation("Where is the river?", "Near the town.")])
    content = list_tokens(settings(), [answers])
    assert content["vocabulary"] == len(content["ids"]) == VOCABULARY
    assert sorted(content["ids"]) == list(range(VOCABULARY))
    assert content["files"][0]["name"] == "answers.jsonl"
    assert (content["conversations"], content["files"][0]["rows"]) == (1, 1)
    assert content["coverage"][256] == 1
    shorter = list_tokens(settings(300), [answers, answers])
    assert shorter["ids"] == content["ids"][:300]
    assert shorter["answer_tokens"] == 2 * content["answer_tokens"]
    file = tmp_path / "tokens.json"
    file.write_text(_as_text(shorter))
    assert read_frequent_tokens(file, VOCABULARY) == shorter["ids"]
    assert json.loads(file.read_text())["tokenizer"] == content["tokenizer"]


def test_end_tokens_and_those_of_the_template_come_first(tmp_path: Path, chat: ChatFormat) -> None:
    answers = save(tmp_path / "answers.jsonl", [conversation("Hello", "So be it.", ended=False)])
    content = list_tokens(settings(300), [answers])
    first = set(islice(content["ids"], content["always"]))
    assert first >= {chat.tokenizer.eos_token_id, *chat.prompt_ids(["."], ())}
    assert content["always"] < 20


def test_a_file_without_answers_is_refused_in_two_lines(tmp_path: Path) -> None:
    empty = save(tmp_path / "prompts.jsonl", [{"turns": ["Hello"]}])
    with pytest.raises(UserError, match=r"holds no conversation .*\n.*bench\.train\.answers"):
        list_tokens(settings(), [empty])


def test_too_large_a_number_names_the_command(tmp_path: Path) -> None:
    from tests.methods.small import random_decoder

    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"vocabulary": 96, "ids": [1, 2]}))
    with pytest.raises(UserError, match=r"python -m bench\.train\.frequent_tokens length="):
        DraftVocab(3, str(file)).head(random_decoder())
