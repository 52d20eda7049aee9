"""Conversations as prompt ids: the template's text, one start token, stable hashes."""

import signal

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bench.errors import UserError
from bench.tasks.chat import ChatFormat, prompt_hash

BOS, EOS, A, B, U = range(5)
PLAIN = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
WITH_BOS = "{{ bos_token }}" + PLAIN
DATED = "{{ date_string }}" + PLAIN
PICKY = "{{ raise_exception('only one turn') }}"


def tokenizer(
    template: str | None = None, *, adds_bos: bool = True, end: str = "</s>"
) -> PreTrainedTokenizerFast:
    """A tokenizer of the words a, b and U, with start and end tokens."""
    words = Tokenizer(models.WordLevel({"<s>": BOS, end: EOS, "a": A, "b": B, "U": U}, unk_token="U"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, bos_token="<s>", eos_token=end, unk_token="U"
    )
    wrapped.chat_template = template
    return wrapped


@pytest.mark.parametrize(
    ("template", "adds_bos", "ids"),
    [
        (WITH_BOS, True, [BOS, A, B, A]),
        (WITH_BOS, False, [BOS, A, B, A]),
        (PLAIN, True, [BOS, A, B, A]),
        (PLAIN, False, [A, B, A]),
    ],
    ids=["template and tokenizer write it", "template writes it", "tokenizer writes it", "none uses one"],
)
def test_a_start_token_is_never_doubled(template: str, adds_bos: bool, ids: list[int]) -> None:
    assert ChatFormat(tokenizer(template, adds_bos=adds_bos)).prompt_ids(["a", "a"], ["b"]) == ids


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_template_that_doubles_the_start_token_is_refused(adds_bos: bool) -> None:
    chat = ChatFormat(tokenizer("{{ bos_token }}" + WITH_BOS, adds_bos=adds_bos))
    with pytest.raises(UserError, match="two start tokens"):
        chat.prompt_ids(["a"], [])


def test_vicuna_writes_fastchats_v1_1_format() -> None:
    chat = ChatFormat(tokenizer(), "vicuna")
    assert chat.prompt_text(["Hi", "More"], [" Hello. "]) == (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        "USER: Hi ASSISTANT: Hello.</s>USER: More ASSISTANT:"
    )
    ids = chat.prompt_ids(["Hi", "More"], ["Hello."])
    assert ids[0] == BOS
    assert ids.count(BOS) == ids.count(EOS) == 1


def test_vicuna_needs_vicunas_end_token() -> None:
    with pytest.raises(UserError, match=r"ends with </s>, this one ends with <end>\nUse model.template="):
        ChatFormat(tokenizer(end="<end>"), "vicuna")


def test_raw_is_the_text_itself() -> None:
    chat = ChatFormat(tokenizer(), "raw")
    assert chat.prompt_text(["def f():\n    "], []) == "def f():\n    "
    assert chat.prompt_text(["a", "b"], ["b"]) == "a\n\nb\n\nb"
    assert chat.prompt_ids(["a"], []) == [BOS, A]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("auto", "<|system|>Be brief.<|user|>Hi"),
        ("raw", "Be brief.\n\nHi"),
        ("vicuna", "Be brief. USER: Hi ASSISTANT:"),
    ],
)
def test_a_system_message_comes_first(template: str, text: str) -> None:
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    assert ChatFormat(tokenizer(source), template).prompt_text(["Hi"], [], "Be brief.") == text


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"no chat template.*\nAdd model.template=raw"):
        ChatFormat(tokenizer())


def test_an_unknown_template_is_refused_with_the_options() -> None:
    with pytest.raises(UserError, match=r"model.template=llama is unknown\nChoose from: auto, vicuna, raw"):
        ChatFormat(tokenizer(), "llama")


def test_a_template_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tasks.chat_template.TEMPLATE_S", 0.1)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(UserError, match=r"has not ended after 0\.1 s"):
        ChatFormat(tokenizer(endless)).prompt_text(["Hi"], [])
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_template_that_rejects_the_conversation_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="rejects the conversation: only one turn"):
        ChatFormat(tokenizer(PICKY)).prompt_ids(["a"], [])


def test_a_dated_template_gives_the_same_prompt_every_day() -> None:
    assert "26 Jul 2024" in ChatFormat(tokenizer(DATED)).prompt_text(["a"], [])


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="holds no token"):
        ChatFormat(tokenizer("{{ '' }}", adds_bos=False)).prompt_ids(["a"], [])


def test_turns_must_outnumber_answers_by_one() -> None:
    with pytest.raises(ValueError, match="one turn more than answers"):
        ChatFormat(tokenizer(), "raw").prompt_text(["a"], ["b"])


def test_answers_are_decoded_without_special_tokens() -> None:
    assert ChatFormat(tokenizer(), "raw").text([A, B, EOS]) == "a b"


def test_hashes_tell_templates_and_prompts_apart() -> None:
    formats = [
        ChatFormat(tokenizer(PLAIN)),
        ChatFormat(tokenizer(WITH_BOS)),
        ChatFormat(tokenizer(), "vicuna"),
        ChatFormat(tokenizer(), "raw"),
    ]
    hashes = {chat.template_hash for chat in formats}
    assert len(hashes) == 4
    assert all(len(text) == 16 for text in hashes)
    assert prompt_hash([1, 23]) != prompt_hash([12, 3])
    assert prompt_hash([1, 23]) == prompt_hash((1, 23))
