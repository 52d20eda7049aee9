"""The generated corpus as data to train modules on.

Modules see other dialogues than the embedded model did in its own training, because the seeds differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.compose.components import require_least
from bench.compose.mistakes import unknown_key
from bench.errors import UserError
from bench.train.corpus import WEIGHTS, training_dialogues
from bench.train.data.tokenizer import SPECIAL_TOKENS, encode_dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.tasks.chat import ChatFormat

_FIRST_SEED = 1000


@dataclass(frozen=True, slots=True)
class EmbeddedCorpus:
    """Endless dialogues for the embedded model, written with its special tokens.

    Args:
        mix: Relative frequency of the dialogues of each subtask; a subtask that is missing does not occur.
    """

    mix: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))

    def __post_init__(self) -> None:
        for subtask, weight in self.mix.items():
            if subtask not in WEIGHTS:
                raise UserError(*unknown_key(f"data.mix.{subtask}", [f"data.mix.{name}" for name in WEIGHTS]))
            require_least(f"data.mix.{subtask}", weight, 0)
        if not any(self.mix.values()):
            raise UserError("data.mix leaves no subtask to train on", "raise one of its weights above 0")

    @property
    def location(self) -> str:
        """Name of the data in a module's provenance, with the mix if it is not the embedded model's."""
        if dict(self.mix) == dict(WEIGHTS):
            return "bench.train.corpus"
        return f"bench.train.corpus ({', '.join(f'{name} {share:g}' for name, share in self.mix.items())})"

    def stream(self, chat: ChatFormat, seed: int) -> Iterator[tuple[list[int], list[bool]]]:
        """Endless dialogues, determined by `seed`.

        Yields:
            Token ids, length T, and which of them are answers.

        Raises:
            UserError: If the tokenizer is not the embedded model's.
        """
        check_chat_tokens(chat.tokenizer)
        for dialogue in training_dialogues(seed + _FIRST_SEED, self.mix):
            yield encode_dialogue(chat.tokenizer, dialogue)


def check_chat_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer has the special tokens of the corpus's chat format.

    Raises:
        UserError: If one is missing.
    """
    if any(
        tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id) for token in SPECIAL_TOKENS
    ):
        raise UserError(
            "the training corpus is written for the embedded model's chat tokens, which this tokenizer lacks",
            "add data=sharegpt to train on real conversations, or train with model=tiny",
        )
