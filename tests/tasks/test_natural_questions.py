"""The shipped questions in everyday language: number, form and length, and that answers can be checked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.records.model import Prompt
from bench.tasks.checkers import is_right, is_well_formed
from bench.tasks.spec_bench import MT_BENCH_CATEGORIES, SUBTASKS, QuestionTask, read_builtin, read_natural
from bench.tasks.task import SourceName

PROMPTS = QuestionTask("spec_bench", "natural").load().prompts
RUN = 10  # words in a row that two questions must not share
COMMON_GERMAN = re.compile(
    r"\b(der|die|das|den|dem|des|eine?[nrs]?|und|ist|im|zu[mr]?|mir|mich|ich|du|wer|nicht|mit|von|am|für|auf|aus"
    r"|vor|nach|über|bis|weil|obwohl|wenn|dass|hat|haben|jeden|unter|keinen?)\b"
)
COMMON_ENGLISH = re.compile(r"\b(the|of|and|is|what|which|a|to|who)\b")
WORDS = {  # of all turns together, fewest and most
    "mt_bench": (20, 120),
    "translation": (8, 50),
    "summarization": (81, 201),
    "qa": (5, 20),
    "math_reasoning": (15, 70),
    "rag": (85, 220),
}


def of(subtask: str) -> list[Prompt]:
    return [prompt for prompt in PROMPTS if prompt.subtask == subtask]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs_of(turns: Iterable[str]) -> set[tuple[str, ...]]:
    """Every sequence of `RUN` words in the turns."""
    texts = [words_of(turn) for turn in turns]
    return {tuple(words[i : i + RUN]) for words in texts for i in range(len(words) - RUN + 1)}


def test_there_are_twenty_questions_of_each_kind() -> None:
    assert Counter(prompt.subtask for prompt in PROMPTS) == dict.fromkeys(SUBTASKS, 20)
    source = QuestionTask("qa", "natural", ["qa"], limit=40).load().source
    assert (source.name, source.n, source.partial) == (SourceName.NATURAL, 20, False)
    assert QuestionTask("qa", "natural", ["qa"], limit=6).load().source.partial
    assert QuestionTask("spec_bench", "natural").unfetched_turns() is None


def test_no_id_is_one_of_the_other_sources() -> None:
    ids = {prompt.id for prompt in PROMPTS}
    assert len(ids) == 120
    assert not ids & {prompt.id for prompt in read_builtin().prompts}
    assert not any(name.isdecimal() for name in ids)  # as the official ids are


def test_conversations_have_two_turns_and_cover_the_eight_categories() -> None:
    assert all(len(prompt.turns) == (2 if prompt.subtask == "mt_bench" else 1) for prompt in PROMPTS)
    categories = Counter(prompt.subtask for prompt in read_natural().prompts)
    assert all(categories[name] >= 2 for name in MT_BENCH_CATEGORIES)


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_lengths_are_as_expected_and_vary(subtask: str) -> None:
    lengths = [len(" ".join(prompt.turns).split()) for prompt in of(subtask)]
    least, most = WORDS[subtask]
    assert least <= min(lengths) < max(lengths) <= most
    assert max(lengths) >= 1.5 * min(lengths)


def test_passages_have_80_to_200_words() -> None:
    summaries = [prompt.turns[0].removeprefix("Summarize: ") for prompt in of("summarization")]
    passages = [prompt.turns[0].split("\n\nQuestion: ")[0] for prompt in of("rag")]
    assert all(80 <= len(text.split()) <= 200 for text in [*summaries, *passages])


def test_no_two_questions_share_a_run_of_words() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for prompt in PROMPTS:
        runs = runs_of(prompt.turns)
        assert not [(seen[run], run) for run in runs if run in seen], prompt.id
        seen.update(dict.fromkeys(runs, prompt.id))


def test_no_question_shares_a_run_of_words_with_the_official_file(shared_data: Path) -> None:
    lines = (shared_data / "spec_bench" / "question.jsonl").read_text().splitlines()
    official = runs_of(turn for line in lines for turn in json.loads(line)["turns"])
    assert not official & runs_of(turn for prompt in PROMPTS for turn in prompt.turns)


def test_sentences_to_translate_are_german_and_all_else_is_english() -> None:
    for prompt in PROMPTS:
        text = prompt.turns[0].removeprefix("Translate German to English: ").lower()
        german, english = len(COMMON_GERMAN.findall(text)), len(COMMON_ENGLISH.findall(text))
        assert (german > english) == (prompt.subtask == "translation"), (prompt.id, german, english)


@pytest.mark.parametrize("subtask", ["translation", "qa", "math_reasoning", "rag"])
def test_the_check_accepts_the_reference_and_no_other_questions_reference(subtask: str) -> None:
    prompts = of(subtask)
    for prompt, other in zip(prompts, [*prompts[1:], prompts[0]], strict=True):
        assert is_right(prompt.checks[0], prompt.references[0]) is True, prompt.id
        assert is_right(prompt.checks[0], other.references[0]) is False, prompt.id


def test_every_question_has_a_check_and_only_open_ones_lack_a_reference() -> None:
    for prompt in PROMPTS:
        assert len(prompt.checks) == len(prompt.turns)
        assert bool(prompt.references) == any(check["kind"] != "open" for check in prompt.checks), prompt.id
    assert {check["kind"] for prompt in of("summarization") for check in prompt.checks} == {"open"}
    conversations = [prompt for prompt in of("mt_bench") if prompt.references]
    assert len(conversations) == 7
    for prompt in conversations:
        for check, reference in zip(prompt.checks, prompt.references, strict=True):
            assert is_right(check, reference) is True, prompt.id
            assert is_right(check, "I am not sure.") is False


def test_lists_tables_and_short_answers_are_well_formed() -> None:
    check = of("qa")[0].checks[0]
    assert is_well_formed(check, "Jupiter")
    assert is_well_formed(check, "| planet | mass |\n| --- | --- | --- | --- |\n| Jupiter | 318 |")
    assert not is_well_formed(check, "")
    assert not is_well_formed(check, "It is Jupiter. It is Jupiter. It is Jupiter.")
    assert not is_well_formed(check, "Jupiter<|im_end|>")


def test_no_answer_stands_in_a_short_question() -> None:
    for prompt in [*of("qa"), *of("translation")]:
        assert is_right(prompt.checks[0], prompt.turns[0]) is False, prompt.id
