"""The embedded corpus as training data: its mix, its name in provenance, and who can read it."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bench.compose.components import resolve_path
from bench.errors import UserError
from bench.tasks.chat import ChatFormat
from bench.tasks.tokenizer import load_tokenizer
from bench.train.corpus import WEIGHTS, training_dialogues
from bench.train.data.embedded import EmbeddedCorpus
from bench.train.data.tokenizer import encode_dialogue


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(load_tokenizer(Path(resolve_path("package:bench/assets/tiny"))))


def test_the_mix_decides_how_often_a_subtask_comes() -> None:
    mix = {"rag": 3, "qa": 1, "mt_bench": 0}
    counts = Counter(dialogue.subtask for dialogue in islice(training_dialogues(0, mix), 800))
    assert set(counts) == {"rag", "qa"}
    assert counts["rag"] / counts["qa"] == pytest.approx(3, rel=0.2)


def test_a_stream_holds_the_corpus_encoded_and_is_the_same_for_a_seed(chat: ChatFormat) -> None:
    first = list(islice(EmbeddedCorpus().stream(chat, 0), 3))
    assert first == list(islice(EmbeddedCorpus().stream(chat, 0), 3))
    assert first == [
        encode_dialogue(chat.tokenizer, dialogue) for dialogue in islice(training_dialogues(1000), 3)
    ]


def test_provenance_tells_a_mix_of_ones_own() -> None:
    assert EmbeddedCorpus().location == "bench.train.corpus"
    assert EmbeddedCorpus({**WEIGHTS, "rag": 9}).location.endswith("math_reasoning 5, rag 9)")


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"rap": 1}, "data.mix.rap"),
        ({"rag": -1}, "data.mix.rag must be at least 0, got -1"),
        ({"rag": 0}, "data.mix leaves no subtask to train on"),
    ],
    ids=str,
)
def test_mixes_that_cannot_be_are_refused(mix: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EmbeddedCorpus(mix)


def test_the_yaml_offers_the_mix_that_the_base_model_learned() -> None:
    node = OmegaConf.load(Path(resolve_path("package:conf/data/embedded.yaml")))
    assert dict(node.mix) == dict(WEIGHTS)
    assert list(node.mix) == list(WEIGHTS)  # the order decides which dialogues a seed draws
