"""Conversations as prompt ids: the template's text, one start token, stable hashes."""

import signal
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bench.errors import UserError
from bench.records.model import Message, Prompt
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


ROLES = (
    "{% for t in tools or [] %}<|tool|>{{ t.function.name }}{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.at }}){% endfor %}"
    "{% endfor %}"
)
LOOK = {"function": {"name": "look", "arguments": {"at": "it"}}}
TALK = (
    Message("user", " Look. "),
    Message("assistant", "", {"tool_calls": [LOOK]}),
    Message("tool", "Seen.", {"tool_call_id": "c1"}),
)


def test_given_messages_are_written_as_given_with_their_roles() -> None:
    chat = ChatFormat(tokenizer(ROLES))
    said_so = "<|user|> Look. <|assistant|>look(it)<|tool|>Seen."
    assert chat.text_of(TALK) == said_so
    assert chat.text_of(TALK, "Be brief.", tools=[LOOK]) == f"<|tool|>look<|system|>Be brief.{said_so}"
    again = [TALK[0], Message("user", "More")]
    assert chat.text_of(again) == "<|user|> Look. <|user|>More"


def test_a_question_is_its_given_messages_then_its_answered_turns() -> None:
    chat = ChatFormat(tokenizer("{% for m in messages %}{{ m.content }} {% endfor %}", adds_bos=False))
    prompt = Prompt("q", "", ("b", "a"), opening=(Message("user", "a"), Message("user", "b")), system="U")
    assert chat.ids_of(prompt) == [U, A, B]
    assert chat.ids_of(prompt, [" a "]) == [U, A, B, A, A]
    assert chat.ids_of(Prompt("q", "", ("b",))) == [B]


def test_a_system_message_is_refused_where_it_is_dropped_and_not_where_it_is_the_templates_own() -> None:
    source = (
        "{{ messages[0].content if messages[0].role == 'system' else 'Be brief.' }}{{ messages[-1].content }}"
    )
    chat = ChatFormat(tokenizer(source))
    assert chat.prompt_text(["Hi"], [], "Be brief.") == chat.prompt_text(["Hi"], []) == "Be brief.Hi"
    with pytest.raises(UserError, match="has no form for the system message"):
        ChatFormat(tokenizer("{{ messages[-1].content }}")).prompt_text(["Hi"], [], "Be brief.")


@pytest.mark.parametrize(
    ("source", "given", "what"),
    [
        (PLAIN, {"tools": [LOOK]}, "the chat template has no form for the tools"),
        (
            "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}",
            {},
            "the chat template has no form for the calls of tools",
        ),
        (
            "{% for m in messages %}{{ m.content if m.role != 'tool' }}{{ m.tool_calls }}{% endfor %}",
            {},
            "the chat template has no form for the results of tools",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{{ m.role == 'assistant' }}{% endfor %}",
            {},
            "the chat template has no form for the results of tools",
        ),
    ],
    ids=["tools", "calls", "results", "results like messages of the user"],
)
def test_a_part_that_a_template_has_no_form_for_is_refused(source: str, given: Any, what: str) -> None:
    with pytest.raises(UserError, match=what):
        ChatFormat(tokenizer(source)).text_of(TALK, **given)


@pytest.mark.parametrize(
    ("template", "messages", "what"),
    [
        ("raw", TALK, "model.template=raw has no form for tools"),
        ("vicuna", [TALK[0], TALK[0]], "needs messages of user and assistant in turn, got user, user"),
    ],
)
def test_other_templates_take_text_only(template: str, messages: Any, what: str) -> None:
    with pytest.raises(UserError, match=what):
        ChatFormat(tokenizer(), template).text_of(messages)


def test_settings_reach_the_template() -> None:
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ '!' if loud }}"
    plain = ChatFormat(tokenizer(source))
    chat = ChatFormat(tokenizer(source), system="Be brief.", template_args={"loud": True})
    assert plain.prompt_text(["Hi"], []) == "<|user|>Hi"
    assert chat.prompt_text(["Hi"], []) == "<|system|>Be brief.<|user|>Hi!"
    assert chat.prompt_text(["Hi"], [], "Be kind.") == "<|system|>Be kind.<|user|>Hi!"
    assert chat.template_hash == plain.template_hash
    assert ChatFormat(tokenizer(), "raw", system="Be brief.").prompt_text(["Hi"], []) == "Be brief.\n\nHi"


@pytest.mark.parametrize(
    ("name", "template", "what"),
    [
        ("louder", "auto", "names louder, which does not occur in the model's chat template"),
        ("tools", "auto", "names tools, which is set for every prompt already"),
        ("loud", "raw", "chat.template_args is set, and model.template=raw takes no arguments"),
    ],
)
def test_an_argument_that_a_template_cannot_read_is_refused(name: str, template: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        ChatFormat(tokenizer(PLAIN + "{{ loud }}"), template, template_args={name: True})


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"no chat template.*\nAdd model.template=raw"):
        ChatFormat(tokenizer())


def test_an_unknown_template_is_refused_with_the_options() -> None:
    with pytest.raises(UserError, match=r"model.template=llama is unknown\nChoose from: auto, vicuna, raw"):
        ChatFormat(tokenizer(), "llama")


def test_a_template_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.tasks.messages.TEMPLATE_S", 0.1)
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
