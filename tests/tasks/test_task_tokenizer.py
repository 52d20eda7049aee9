"""A tokenizer is loaded, or two lines say what is missing; end tokens come from all who name them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import bench.tasks.tokenizer
from bench.errors import UserError
from bench.tasks.tokenizer import eos_ids, load_tokenizer
from bench.train.data.tokenizer import train_tokenizer
from tests.harness import TEXTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without weights, its tokenizer as ``tokenizer.json``."""
    folder = tmp_path_factory.mktemp("model")
    train_tokenizer(TEXTS, 300).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def save_sentencepiece(folder: Path) -> Path:
    """As lmsys/vicuna-*-v1.3 has it: ``tokenizer.model`` and no ``tokenizer.json``."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=100,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "eos_token": "</s>",
        "bos_token": "<s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def test_a_tokenizer_is_loaded(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer("a fox")["input_ids"], skip_special_tokens=True) == "a fox"


def test_vicunas_tokenizer_is_loaded(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_sentencepiece(tmp_path))
    assert tokenizer.decode(tokenizer("a fox")["input_ids"], skip_special_tokens=True).strip() == "a fox"
    assert eos_ids(tmp_path, tokenizer) == {2}


def test_the_library_that_reads_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr(bench.tasks.tokenizer, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"tokenizer\.model only, which sentencepiece and google\.protobuf"
    ) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.fix == "pip install 'self-speculative-bench[sentencepiece]'"


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer \(none of tokenizer\.json") as caught:
        load_tokenizer(tmp_path)
    assert "model.tokenizer" in caught.value.fix


@pytest.mark.parametrize("text", ["", "{", '{"version": "1.0"}'], ids=["empty", "cut short", "no model"])
def test_a_tokenizer_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=f"{tmp_path}.* (cannot be read|is not valid JSON)"):
        load_tokenizer(tmp_path)


class TestEndTokens:
    def test_all_who_name_one_are_heard(self, folder: Path, tmp_path: Path) -> None:
        tokenizer = load_tokenizer(folder)
        (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
        assert eos_ids(tmp_path, tokenizer, [9]) == {tokenizer.eos_token_id, 7, 8, 9}
        assert eos_ids(folder, tokenizer) == {tokenizer.eos_token_id}

    def test_an_id_beyond_the_tokenizer_is_of_another_model(self, folder: Path) -> None:
        with pytest.raises(UserError, match=r"model\.stop_ids names \[128009\]") as caught:
            eos_ids(folder, load_tokenizer(folder), [2, 128009])
        assert "model.stop_ids=[]" in caught.value.fix
