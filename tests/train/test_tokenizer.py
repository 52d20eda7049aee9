"""The tokenizer: any text survives, digits stay single, one BOS, one mask for template and trainer."""

from itertools import islice
from pathlib import Path
from typing import cast

import pytest
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from bench.train.corpus import Dialogue, training_dialogues
from bench.train.data.tokenizer import ASSISTANT, BOS, END, USER, encode_dialogue, train_tokenizer


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return list(islice(training_dialogues(0), 300))


@pytest.fixture(scope="module")
def tokenizer(dialogues: list[Dialogue]) -> PreTrainedTokenizerFast:
    return train_tokenizer((text for d in dialogues for text in (*d.turns, *d.answers)), vocab_size=600)


def encoded(
    tokenizer: PreTrainedTokenizerFast,
    messages: list[dict[str, str]],
    *,
    prompt: bool = False,
    mask: bool = False,
) -> dict[str, list[int]]:
    result = tokenizer.apply_chat_template(
        messages, return_dict=True, add_generation_prompt=prompt, return_assistant_tokens_mask=mask
    )
    return dict(cast(BatchEncoding, result))


def messages_of(dialogue: Dialogue) -> list[dict[str, str]]:
    pairs = zip(dialogue.turns, dialogue.answers, strict=True)
    return [
        m for q, a in pairs for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})
    ]


@pytest.mark.parametrize("text", ["Grüße, 世界! 🙂", "a\n\n  b\t", "x = 3.14e-5;", "", "Don't  stop"])
def test_any_text_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("1942") == list("1942")
    assert tokenizer.tokenize("= 42.")[-3:] == ["4", "2", "."]


def test_vocabulary_has_the_size_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 600
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BOS, END)
    with pytest.raises(ValueError, match="vocab_size must be at least 260"):
        train_tokenizer(["text"], vocab_size=100)


def test_template_writes_one_bos_and_opens_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Ho"},
    ]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == f"{BOS}{USER}Hi{ASSISTANT}Yes.{END}{USER}Ho{ASSISTANT}"
    ids = encoded(tokenizer, turns, prompt=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == tokenizer.convert_tokens_to_ids(ASSISTANT)


def test_encode_dialogue_equals_the_template(
    tokenizer: PreTrainedTokenizerFast, dialogues: list[Dialogue]
) -> None:
    for dialogue in dialogues:
        ids, mask = encode_dialogue(tokenizer, dialogue)
        expected = encoded(tokenizer, messages_of(dialogue), mask=True)
        assert ids == expected["input_ids"]
        assert mask == [bool(flag) for flag in expected["assistant_masks"]]


def test_loss_covers_answers_and_their_end(
    tokenizer: PreTrainedTokenizerFast, dialogues: list[Dialogue]
) -> None:
    dialogue = next(d for d in dialogues if len(d.turns) == 2)
    ids, mask = encode_dialogue(tokenizer, dialogue)
    counted = [token for token, flag in zip(ids, mask, strict=True) if flag]
    assert tokenizer.decode(counted) == "".join(answer + END for answer in dialogue.answers)


def test_saved_tokenizer_loads_with_transformers(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.eos_token_id == tokenizer.eos_token_id
    assert loaded("Grüße 42")["input_ids"] == tokenizer("Grüße 42")["input_ids"]
