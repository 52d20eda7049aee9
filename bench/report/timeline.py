"""One answer as text, round by round: which token came from which round, and how.

A token is *first* (from the prefill), *accepted* (drafted, and the target agreed), *corrected* (the
target's own, after it disagreed), *bonus* (the target's own, after a draft it agreed to in full) or *plain*
(a round without a draft). A tree's last token counts as a bonus only if the path went as deep as the tree,
since records do not tell whether a shallower path ended at a leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.errors import UserError
from bench.records.model import Arm, Sample


class Origin(StrEnum):
    """How a token came to be."""

    FIRST = "first"
    ACCEPTED = "accepted"
    CORRECTED = "corrected"
    BONUS = "bonus"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the answer.

    Args:
        id: Token id.
        text: What it adds to the answer.
        round: Round it came from, from 1; 0 is the prefill.
        origin: How it came to be.
    """

    id: int
    text: str
    round: int
    origin: Origin


def timeline(sample: Sample, texts: Sequence[str] | None = None) -> list[Token]:
    """Every token of a sample with its round and origin.

    Args:
        sample: A sample without an error.
        texts: What each token adds to the text; its id in brackets where this is None.

    Raises:
        ValueError: If the sample failed or the texts are not one per token.
    """
    if sample.error is not None:
        raise ValueError(f"sample {sample.key} failed, it has no tokens: {sample.error}")
    shown = [f"[{one}]" for one in sample.ids] if texts is None else list(texts)
    if len(shown) != len(sample.ids):
        raise ValueError(f"need a text for each of {len(sample.ids)} tokens, got {len(shown)}")
    places = [(0, Origin.FIRST)]
    for number, one in enumerate(sample.rounds, start=1):
        own = (
            Origin.PLAIN
            if not one.drafted
            else Origin.BONUS
            if one.accepted == one.depth
            else Origin.CORRECTED
        )
        origins = [Origin.ACCEPTED] * one.accepted + [own]
        places += [(number, origin) for origin in origins[: one.emitted]]
    rows = zip(sample.ids, shown, places, strict=True)
    return [Token(token, text, number, origin) for token, text, (number, origin) in rows]


def find_sample(samples: Sequence[Sample], prompt_id: str, turn: int) -> Sample:
    """The method's first good decode of a turn.

    Raises:
        UserError: If the run holds none, with the ids that it holds.
    """
    methods = [one for one in samples if one.arm is Arm.METHOD and one.error is None]
    for one in methods:
        if (one.prompt_id, one.turn) == (prompt_id, turn):
            return one
    held = list(dict.fromkeys(one.prompt_id for one in methods))
    shown = ", ".join(held[:12]) + (f", and {len(held) - 12} more" if len(held) > 12 else "")
    raise UserError(
        f"the run holds no answer of its method to {prompt_id!r}, turn {turn + 1}", f"choose from: {shown}"
    )


def timeline_page(sample: Sample, tokens: Sequence[Token], title: str) -> str:
    """The timeline as one HTML file: the answer with its tokens marked, then a table of rounds."""
    from bench.report.page import render

    rounds = [
        (number, one, [token for token in tokens if token.round == number])
        for number, one in enumerate(sample.rounds, start=1)
    ]
    counts = {origin.value: sum(token.origin is origin for token in tokens) for origin in Origin}
    return render(
        "timeline.html",
        title=title,
        sample=sample,
        tokens=tokens,
        rounds=rounds,
        counts=counts,
        first=tokens[0],
    )
