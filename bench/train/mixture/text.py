"""What the embedded mixture of experts learns from: the embedded model's dialogues, and files of real text.

Real text makes the model unsure of its next token, as large models are; without it nearly every token would
be certain, and experts would be chosen by rote.

Shapes: T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from transformers import PreTrainedTokenizerFast

from bench.errors import UserError
from bench.train.base.data import Encoded
from bench.train.corpus import training_dialogues
from bench.train.corpus.dialogue import Dialogue
from bench.train.data.tokenizer import encode_dialogue

HELDOUT_SHARE = 40
"""One real text of so many is never trained on."""


def read_texts(files: Sequence[Path], tokenizer: PreTrainedTokenizerFast, most: int) -> list[Encoded]:
    """Real text in pieces of at most `most` tokens, each with a mask of the tokens that count most.

    A line is a dialogue (``messages``), or a question alone (``turns``), of which every token counts.

    Raises:
        UserError: If a line holds neither.
    """
    pieces = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            ids, mask = _encoded(json.loads(line), tokenizer, f"{file}, line {number}")
            pieces += [(ids[at : at + most], mask[at : at + most]) for at in range(0, len(ids), most)]
    return [piece for piece in pieces if len(piece[0]) > 1]


def _encoded(entry: dict[str, list[object]], tokenizer: PreTrainedTokenizerFast, where: str) -> Encoded:
    if "messages" in entry:
        messages = [str(message["content"]) for message in entry["messages"] if isinstance(message, dict)]
        turns, answers = tuple(messages[::2]), tuple(messages[1::2])
        return encode_dialogue(tokenizer, Dialogue("mt_bench", turns, answers, ({},) * len(turns)))
    if "turns" not in entry:
        raise UserError(f"{where} holds neither messages nor turns", "give files of dialogues or questions")
    text = "\n".join(str(turn) for turn in entry["turns"])
    ids = [int(tokenizer.bos_token_id), *tokenizer(text, add_special_tokens=False)["input_ids"]]
    return ids, [True] * len(ids)


def split_texts(pieces: Sequence[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
    """The pieces to train on, and those held out."""
    held = list(pieces[::HELDOUT_SHARE])
    return [piece for place, piece in enumerate(pieces) if place % HELDOUT_SHARE], held


def mixed(
    pieces: Sequence[Encoded], tokenizer: PreTrainedTokenizerFast, share: float, seed: int
) -> Iterator[Encoded]:
    """Dialogues of both kinds without end; `share` of their tokens are real text.

    Args:
        pieces: Real text, repeated in a new order each time.
        tokenizer: The model's.
        share: Share of real text, from 0 to 1.
        seed: Of the order.
    """
    rng = Random(seed)
    dialogues = training_dialogues(seed)
    order: list[int] = []
    real = total = 0
    while True:
        if pieces and real <= share * total:
            if not order:
                order = list(range(len(pieces)))
                rng.shuffle(order)
            piece = pieces[order.pop()]
            real += len(piece[0])
        else:
            piece = encode_dialogue(tokenizer, next(dialogues))
        total += len(piece[0])
        yield piece
