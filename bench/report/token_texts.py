"""What each token adds to an answer, by the tokenizer that a run was measured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.records.model import Run

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer shows for half a character."""


def pieces(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The text each token adds: the growth of the decoded answer.

    A token that ends inside a character adds nothing; the one that completes it adds the character.
    """
    found: list[str] = []
    before = ""
    for end in range(1, len(ids) + 1):
        text = decode(ids[:end])
        is_whole = not text.endswith(UNFINISHED) and text.startswith(before)
        found.append(text[len(before) :] if is_whole else "")
        before = text if is_whole else before
    return found


def load_decode(run: Run) -> Callable[[Sequence[int]], str]:
    """The decoding function of a run's tokenizer, special tokens shown.

    Raises:
        UserError: If its model cannot be found.
    """
    from bench.runtime.hub import COMPANIONS, fetch  # loads torch
    from bench.tasks.chat import load_tokenizer

    model = run.config["model"]
    own = model.get("tokenizer")
    folder = fetch(own or model["path"], None if own else model.get("revision"), COMPANIONS)
    tokenizer = load_tokenizer(folder)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))

    return decode


def load_counter(model: str) -> Callable[[str], int]:
    """Length of a text in a model's tokens, its start token included: what the original script counts.

    Raises:
        UserError: If the model cannot be found.
    """
    from bench.runtime.hub import COMPANIONS, fetch  # loads torch
    from bench.tasks.chat import load_tokenizer

    tokenizer = load_tokenizer(fetch(model, None, COMPANIONS))
    return lambda text: len(tokenizer(text).input_ids)
