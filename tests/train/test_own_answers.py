"""``python -m bench.train.answers``: a model answers prompts, and the file of its answers trains modules."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig
from bench.compose.workbench import Target, find_target
from bench.errors import UserError
from bench.records.model import Message, Prompt
from bench.runtime.package_index import FOLDER_VARIABLE
from bench.runtime.sampling import Sampler, Sampling
from bench.train.answers.answer_file import AnswerFile, settings_path
from bench.train.answers.cli import main
from bench.train.answers.dialogues import Answering, batches
from bench.train.answers.engines import Decoding, load_engine
from bench.train.answers.generating import load_model
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, NoClock
from tests.command import Done, mistake_lines, run_command
from tests.runtime.models import oracle_logits, tokens
from tests.runtime.test_gguf import converted
from tests.train.test_train_cli import train

TURNS = [["Tell me a story.", "And another?"], ["What is the capital of France?"], ["Hi"]]
has_ctranslate2 = importlib.util.find_spec("ctranslate2") is not None
ENGINES = [
    "transformers",
    pytest.param("ctranslate2", marks=pytest.mark.skipif(not has_ctranslate2, reason="not installed")),
]
DRAWN = ["sampling.temperature=1.0", "sampling.top_k=20"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of its own for the models that CTranslate2 converts."""
    with patch.dict(os.environ, {FOLDER_VARIABLE: str(tmp_path_factory.mktemp("models"))}):
        yield


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"id": f"q{place}", "category": "qa", "turns": turns} for place, turns in enumerate(TURNS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(model: Path, prompts: Path, *overrides: str) -> Done:
    place = ["model=local", f"model.path={model}", f"prompts={prompts}", f"hydra.run.dir={prompts.parent}"]
    small = ["max_new_tokens=12", "batch=2", f"out={prompts.parent / 'out.jsonl'}", "engine=transformers"]
    return run_command(main, *place, *small, *overrides)


def rows_of(prompts: Path) -> list[dict[str, Any]]:
    lines = (prompts.parent / "out.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["id"])


def ours(target: Target, ids: list[int], tokens: int) -> list[int]:
    """The greedy answer by our own runtime."""
    method, budget = Autoregressive(), Budget(tokens, target.eos_ids)
    method.attach(target.load(1))
    sampler = Sampler(Sampling(), torch.device("cpu"), 0)
    return list(
        method.generate(torch.tensor(ids), budget, sampler, NoClock()).cut(tokens, target.eos_ids).ids
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["random", "tiny"])
def test_greedy_answers_have_the_ids_of_our_own_runtime(name: str, engine: str, model: Path) -> None:
    path = str(model) if name == "random" else "package:bench/assets/tiny"
    target = find_target(ModelConfig(path), RuntimeConfig("cpu"))
    prompts = [target.chat.prompt_ids(turns[:1], ()) for turns in TURNS]
    assert len({len(prompt) for prompt in prompts}) > 1  # so that the shorter ones are padded
    answers = load_engine(engine, target, Decoding(Sampling(), 40, 1)).answer(prompts, 0)
    assert answers == [ours(target, prompt, 40) for prompt in prompts]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dialogue_has_an_answer_to_every_turn(engine: str, model: Path, prompts: Path) -> None:
    got = answer(model, prompts, f"engine={engine}")
    assert got.returncode == 0, got.stderr
    rows = rows_of(prompts)
    assert [[message["content"] for message in row["messages"][::2]] for row in rows] == TURNS
    assert {message["role"] for row in rows for message in row["messages"][1::2]} == {"assistant"}
    assert [(row["id"], row["category"], row["sampling"]) for row in rows] == [
        (f"q{place}", "qa", "greedy") for place in range(3)
    ]
    assert all(row["prompt_tokens"] > 0 and 0 < row["answer_tokens"] <= 24 for row in rows)
    assert f"by {engine}" in got.stdout
    assert "tokens/s" in got.stdout


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "it is not installed"),
        (["runtime.dtype=bfloat16"], "it is used on a CPU in float32 only"),
        (["sampling.temperature=1.0", "sampling.top_p=0.9"], "its top_p is not known"),
    ],
    ids=["not installed", "precision", "top_p"],
)
def test_transformers_answers_where_ctranslate2_cannot(
    overrides: list[str], reason: str, model: Path, prompts: Path
) -> None:
    with patch("bench.train.answers.engines.find_spec", lambda name: object() if overrides else None):
        got = answer(model, prompts, "engine=auto", *overrides)
    assert got.returncode == 0, got.stderr
    assert "by transformers" in got.stdout
    assert f"CTranslate2 is not used: {reason}" in got.stdout


@pytest.mark.skipif(not has_ctranslate2, reason="not installed")
def test_a_conversion_with_other_logits_is_not_kept(
    model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr("bench.train.answers.converted.TOLERANCE", 0.0)
    got = answer(model, prompts, "engine=ctranslate2")
    assert got.returncode == 2
    assert "its conversion of this model computes other logits" in got.stderr
    assert list((tmp_path / "models" / "ctranslate2").iterdir()) == []


class Scripted:
    """An engine that gives the same ids to everyone, and keeps the prompts."""

    name = "scripted"

    def __init__(self, *ids: int) -> None:
        self.ids, self.prompts = list(ids), []

    def answer(self, prompts: Any, seed: int) -> list[list[int]]:
        self.prompts += prompts
        return [self.ids for _ in prompts]


def answering(target: Target, engine: Scripted, context: int = 256) -> Answering:
    return Answering(engine, target.chat, target.eos_ids, context, 8, "greedy", 0)


def test_a_row_says_whether_its_answers_have_ended(model: Path) -> None:
    target = find_target(ModelConfig(str(model)), RuntimeConfig("cpu"))
    end = min(target.eos_ids)
    request = Prompt("q", "", ("Hi", "More"))
    (row,) = answering(target, Scripted(70, 71, end)).answer([request])
    assert (row["ended"], row["answer_tokens"]) == (True, 6)
    (row,) = answering(target, Scripted(70, 71)).answer([request])
    assert (row["ended"], row["answer_tokens"]) == (False, 4)


def test_later_turns_follow_the_models_own_answers_and_given_history(model: Path) -> None:
    target = find_target(ModelConfig(str(model)), RuntimeConfig("cpu"))
    engine = Scripted(70, 71, min(target.eos_ids))
    said = target.chat.text([70, 71])
    given = Message("user", "First"), Message("assistant", "Yes."), Message("user", "Hi")
    request = Prompt("q", "", ("Hi", "More"), system="Be brief.", opening=given)
    (row,) = answering(target, engine).answer([request])
    assert engine.prompts[1] == target.chat.prompt_ids(["First", "Hi", "More"], ["Yes.", said], "Be brief.")
    texts = ["Be brief.", "First", "Yes.", "Hi", said.strip(), "More", said.strip()]
    assert [message["content"] for message in row["messages"]] == texts


def test_a_row_holds_the_system_message_that_it_was_made_with(model: Path) -> None:
    target = find_target(ModelConfig(str(model)), RuntimeConfig("cpu"), ChatConfig("Be brief."))
    engine = Scripted(min(target.eos_ids))
    requests = [Prompt("q", "", ("Hi",)), Prompt("own", "", ("Hi",), system="Be kind.")]
    rows = answering(target, engine).answer(requests)
    assert [row["messages"][0]["content"] for row in rows] == ["Be brief.", "Be kind."]
    assert engine.prompts[0] == target.chat.prompt_ids(["Hi"], [], "Be brief.")


def test_an_answer_of_older_code_is_known_though_that_kept_no_white_space(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    row = {"id": "q", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}]}
    path.write_text(json.dumps(row) + "\n")
    settings_path(path).write_text("{}")
    with AnswerFile(path, {}) as file:
        assert file.missing([Prompt("q", "", (" Hi\n",)), Prompt("r", "", ("Hi",))]) == [
            Prompt("r", "", ("Hi",))
        ]


def test_a_prompt_beyond_the_context_becomes_a_row_with_an_error(model: Path) -> None:
    target = find_target(ModelConfig(str(model)), RuntimeConfig("cpu"))
    engine = Scripted(70, min(target.eos_ids))
    requests = [Prompt("long", "", ("word " * 50,)), Prompt("short", "", ("Hi", "word " * 50))]
    long, short = answering(target, engine, context=40).answer(requests)
    assert long["error"].startswith("turn 1: a prompt of ")
    assert [message["role"] for message in long["messages"]] == ["user"]
    assert short["error"].startswith("turn 2")
    assert [message["role"] for message in short["messages"]] == ["user", "assistant", "user"]
    assert not short["ended"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("overrides", [[], DRAWN], ids=["greedy", "sampled"])
def test_an_interrupted_file_is_completed_as_if_nothing_had_happened(
    engine: str, overrides: list[str], model: Path, prompts: Path
) -> None:
    chosen = [f"engine={engine}", "batch=1", *overrides]
    assert answer(model, prompts, *chosen).returncode == 0
    out = prompts.parent / "out.jsonl"
    whole = out.read_text()
    first, second, _ = whole.splitlines()
    out.write_text(f"{first}\n{second[:20]}")  # the process was killed while it wrote
    assert answer(model, prompts, *chosen).returncode == 0
    assert out.read_text() == whole
    got = answer(model, prompts, *chosen)
    assert "all 3 prompts are answered" in got.stdout
    assert out.read_text() == whole


@pytest.mark.parametrize("fails_at", [1, 2])
def test_an_interrupt_loses_one_batch_at_most(fails_at: int, model: Path, prompts: Path) -> None:
    calls, real = [], Answering.answer

    def interrupted(self: Answering, batch: Any) -> Any:
        calls.append(len(batch))
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        return real(self, batch)

    with patch.object(Answering, "answer", interrupted):
        got = answer(model, prompts)
    assert got.returncode == 130
    assert "the same command resumes" in got.stderr
    assert len(rows_of(prompts)) == sum(calls[: fails_at - 1])
    assert answer(model, prompts).returncode == 0
    assert len(rows_of(prompts)) == 3


def test_a_file_of_other_settings_is_refused(model: Path, prompts: Path) -> None:
    assert answer(model, prompts).returncode == 0
    before = (prompts.parent / "out.jsonl").read_text()
    for overrides, what in (
        (DRAWN, "was made with other settings (sampling=greedy then, temperature=1, top_k=20, top_p=1 now; "),
        (["max_new_tokens=13"], "was made with other settings (max_new_tokens=12 then, 13 now)"),
        (["model.path=package:bench/assets/tiny"], "was made with "),
    ):
        got = answer(model, prompts, *overrides)
        assert got.returncode == 2
        assert what in got.stderr
        assert len(mistake_lines(got.stderr)) == 2
        assert (prompts.parent / "out.jsonl").read_text() == before


def test_a_file_of_unknown_origin_or_of_other_prompts_is_refused(model: Path, prompts: Path) -> None:
    assert answer(model, prompts).returncode == 0
    prompts.write_text(json.dumps({"id": "q0", "turns": ["Another question"]}) + "\n")
    assert "holds an answer to another prompt with the id q0" in answer(model, prompts).stderr
    (prompts.parent / "out.settings.json").unlink()
    got = answer(model, prompts)
    assert got.returncode == 2
    assert "cannot be continued" in got.stderr


@pytest.mark.parametrize("damage", ["", "{", "[]", "3", '{"model": '])
def test_damaged_settings_of_a_file_are_told(damage: str, tmp_path: Path) -> None:
    AnswerFile(tmp_path / "out.jsonl", {"max_new_tokens": 3}).__exit__(None, None, None)
    settings_path(tmp_path / "out.jsonl").write_text(damage)
    with pytest.raises(UserError, match=r"out.settings.json is damaged"):
        AnswerFile(tmp_path / "out.jsonl", {"max_new_tokens": 3})


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["batch=0"], "batch must be at least 1, got 0"),
        (["engine=vllm"], "engine must be one of auto, transformers, ctranslate2"),
        (["prompts=missing.jsonl"], "prompts=missing.jsonl: no such file"),
        (["model.weights=random"], "random weights have no answers to learn from"),
        (["engine=ctranslate2", "runtime.dtype=bfloat16"], "engine=ctranslate2 is not possible: it is"),
    ],
    ids=["batch", "engine", "prompts", "random weights", "precision"],
)
def test_mistakes_take_two_lines(overrides: list[str], what: str, model: Path, prompts: Path) -> None:
    got = answer(model, prompts, *overrides)
    assert got.returncode == 2
    assert what in got.stderr
    assert len(mistake_lines(got.stderr)) == 2


def test_what_the_embedded_model_answers_trains_its_modules(tmp_path: Path, prompts: Path) -> None:
    small = ["model=tiny", "max_new_tokens=24", "engine=transformers", f"hydra.run.dir={tmp_path}"]
    got = run_command(main, *small, f"prompts={prompts}", f"out={tmp_path / 'own.jsonl'}")
    assert got.returncode == 0, got.stderr
    recipe = ["recipe=kangaroo", "recipe.steps=2", "recipe.batch=2", "data=answers"]
    place = [f"data.path={tmp_path / 'own.jsonl'}", f"out={tmp_path / 'module'}", f"hydra.run.dir={tmp_path}"]
    trained = train(*recipe, *place)
    assert trained.returncode == 0, trained.stderr
    assert json.loads((tmp_path / "module" / "module.json").read_text())["data"].endswith("own.jsonl")
    assert "Add data.path=FILE" in train("data=answers", f"hydra.run.dir={tmp_path}").stderr


@pytest.mark.parametrize("name", ["llama-tied-one-kv-head", "qwen2-biases", "phi3-fused"])
def test_the_weights_of_a_gguf_file_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    original, path = converted(name, tmp_path)
    loaded = load_model(path, torch.device("cpu"), torch.float32)
    ids = tokens(12)
    torch.testing.assert_close(oracle_logits(loaded, ids), oracle_logits(original, ids), atol=1e-5, rtol=0)


def test_batches_hold_prompts_of_similar_length_in_an_order_that_repeats(model: Path) -> None:
    target = find_target(ModelConfig(str(model)), RuntimeConfig("cpu"))
    requests = [Prompt(str(place), "", ("a " * (place % 5 * 8 + 1),)) for place in range(20)]
    made = batches(requests, 3, answering(target, Scripted()))
    assert made == batches(requests, 3, answering(target, Scripted()))
    assert sorted(request.id for batch in made for request in batch) == sorted(map(str, range(20)))
    assert {len({request.turns for request in batch}) for batch in made} == {1}
    assert [len(batch) for batch in made].count(3) == 5
