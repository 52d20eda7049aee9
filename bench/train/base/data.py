"""Micro-batches of the base model, determined by the seed, the worker and the index of the micro-batch.

A pool of dialogues is drawn, grouped by length into micro-batches of about `micro_tokens` tokens with
padding, and shuffled. Pools are seeded by their number, so a resumed run only has to draw its current pool.
Every dialogue starts at position 0 of its own row, as in inference.

Shapes: B dialogues of a micro-batch, S positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from bench.train.corpus import Dialogue, training_dialogues
from bench.train.data.batching import group_by_length
from bench.train.data.tokenizer import encode_dialogue

Encoded = tuple[list[int], list[bool]]
MICROS_PER_POOL = 96
LENGTH_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Right-padded dialogues."""

    ids: Tensor
    """Token ids, shape [B, S], int64."""
    is_answer: Tensor
    """True on answer tokens and their end token, shape [B, S], bool."""
    is_token: Tensor
    """False on padding, shape [B, S], bool."""


def collate(dialogues: Sequence[Encoded], pad: int) -> MicroBatch:
    """Right-pad encoded dialogues to a common length, a multiple of 8."""
    length = max(len(ids) for ids, _ in dialogues)
    length = -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    ids = torch.full((len(dialogues), length), pad)
    is_answer = torch.zeros(len(dialogues), length, dtype=torch.bool)
    is_token = torch.zeros(len(dialogues), length, dtype=torch.bool)
    for row, (tokens, mask) in enumerate(dialogues):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        is_answer[row, : len(tokens)] = torch.tensor(mask, dtype=torch.bool)
        is_token[row, : len(tokens)] = True
    return MicroBatch(ids, is_answer, is_token)


def cut_by_length(dialogues: Sequence[Encoded], micro_tokens: int) -> list[list[Encoded]]:
    """Groups of dialogues of similar length, of at most `micro_tokens` tokens with padding."""
    return group_by_length(dialogues, micro_tokens, lambda dialogue: len(dialogue[0]))


def _encode_until(
    stream: Iterator[Dialogue], tokenizer: PreTrainedTokenizerFast, tokens: int
) -> list[Encoded]:
    encoded: list[Encoded] = []
    while tokens > 0:
        encoded.append(encode_dialogue(tokenizer, next(stream)))
        tokens -= len(encoded[-1][0])
    return encoded


class MicroBatches:
    """The micro-batches of one worker, addressed by their index.

    Args:
        tokenizer: Tokenizer of the model.
        micro_tokens: Largest size of a micro-batch, in tokens with padding.
        seed: Seed of the run.
        rank: This worker's index; every worker draws its own dialogues.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, micro_tokens: int, seed: int, rank: int) -> None:
        self._tokenizer = tokenizer
        self._micro_tokens = micro_tokens
        self._seed = (seed, rank)
        self._pool_number = -1
        self._pool: list[list[Encoded]] = []

    def __getitem__(self, index: int) -> MicroBatch:
        """The micro-batch with this index; indices may come in any order."""
        number, offset = divmod(index, MICROS_PER_POOL)
        if number != self._pool_number:
            self._pool, self._pool_number = self._draw(number), number
        return collate(self._pool[offset], int(self._tokenizer.pad_token_id))

    def _draw(self, number: int) -> list[list[Encoded]]:
        seed, rank = self._seed
        rng = Random(f"{seed}/{rank}/{number}")
        stream = training_dialogues(rng.getrandbits(48))
        # without padding they would fill MICROS_PER_POOL groups; padding makes a few more, which are dropped
        encoded = _encode_until(stream, self._tokenizer, MICROS_PER_POOL * self._micro_tokens)
        groups = cut_by_length(encoded, self._micro_tokens)
        rng.shuffle(groups)
        return groups[:MICROS_PER_POOL]
