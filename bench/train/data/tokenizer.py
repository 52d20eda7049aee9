"""The tokenizer of the embedded model: byte-level BPE, single digits, a chat template that marks answers.

It works on bytes, so any text can be encoded without an unknown token. Every digit is a token, and the space
before a number is another token, so a digit has the same embedding everywhere.

Shapes: T tokens of one dialogue.
"""

from collections.abc import Iterable
from typing import cast

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bench.train.corpus.dialogue import Dialogue

BOS, USER, ASSISTANT, END = "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (BOS, USER, ASSISTANT, END)
WORD_PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
# A system message has no token of its own; it is written like a user message.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Learn the merges from texts and wrap them with the special tokens and the chat template.

    Args:
        texts: User and assistant messages, without special tokens.
        vocab_size: Size of the vocabulary, special tokens and the 256 bytes included.

    Returns:
        A tokenizer whose eos is ``<|end|>`` and whose template writes exactly one ``<|bos|>``.

    Raises:
        ValueError: If `vocab_size` does not hold the bytes and the special tokens.
    """
    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size must be at least {256 + len(SPECIAL_TOKENS)}, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def encode_dialogue(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
    """Token ids of a whole dialogue, and which of them the loss counts.

    Args:
        tokenizer: A tokenizer from `train_tokenizer`.
        dialogue: The dialogue; its messages must not hold special tokens.

    Returns:
        Ids, length T, and a mask of length T that is true on answer tokens and their ``<|end|>``.
    """
    messages = [message for pair in zip(dialogue.turns, dialogue.answers, strict=True) for message in pair]
    encoded = cast(list[list[int]], tokenizer(messages, add_special_tokens=False)["input_ids"])
    bos, user, assistant, end = cast(list[int], tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    ids, mask = [bos], [False]
    for question, answer in zip(encoded[::2], encoded[1::2], strict=True):
        ids += [user, *question, assistant, *answer, end]
        mask += [False] * (len(question) + 2) + [True] * (len(answer) + 1)
    return ids, mask
