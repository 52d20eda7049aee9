"""One answer as text, round by round: which token came from which round, and how.

A token is *first* (from the prefill), *accepted* (drafted, and the target agreed), *corrected* (the
target's own, after it disagreed), *bonus* (the target's own, after it agreed to the whole draft) or *plain*
(a round without a draft). The last token of a tree round counts as a bonus only if the accepted path is as
deep as the tree: records do not say whether a shorter path ended at a leaf.

A *rejected* token was drafted and not accepted. Records hold the number of rejected tokens, not their ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.errors import UserError
from bench.records.model import Arm, Run, Sample
from bench.report.stored_runs import StoredRun
from bench.show.layout import text_table

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer shows for half a character."""


class Origin(StrEnum):
    """How a token was produced."""

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
        origin: How it was produced.
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
    shown = [f"[{token}]" for token in sample.ids] if texts is None else list(texts)
    if len(shown) != len(sample.ids):
        raise ValueError(f"need a text for each of {len(sample.ids)} tokens, got {len(shown)}")
    places = [(0, Origin.FIRST)]
    for number, round_ in enumerate(sample.rounds, start=1):
        own = (
            Origin.PLAIN
            if not round_.drafted
            else Origin.BONUS
            if round_.accepted == round_.depth
            else Origin.CORRECTED
        )
        origins = [Origin.ACCEPTED] * round_.accepted + [own]
        places += [(number, origin) for origin in origins[: round_.emitted]]
    rows = zip(sample.ids, shown, places, strict=True)
    return [Token(token, text, number, origin) for token, text, (number, origin) in rows]


def find_sample(samples: Sequence[Sample], prompt_id: str, turn: int) -> Sample:
    """The method's first good decode of a turn.

    Raises:
        UserError: If the run holds none; it lists the ids that the run holds.
    """
    methods = [sample for sample in samples if sample.arm is Arm.METHOD and sample.error is None]
    for sample in methods:
        if (sample.prompt_id, sample.turn) == (prompt_id, turn):
            return sample
    known = list(dict.fromkeys(sample.prompt_id for sample in methods))
    shown = ", ".join(known[:12]) + (f", and {len(known) - 12} more" if len(known) > 12 else "")
    raise UserError(
        f"the run holds no answer of its method to {prompt_id!r}, turn {turn + 1}", f"choose from: {shown}"
    )


def timeline_of(stored: StoredRun, prompt_id: str, turn: int, *, has_ids: bool) -> str:
    """The page of one answer, with its question where that can be read.

    Args:
        stored: A run of one method.
        prompt_id: Id of the question.
        turn: Turn of the conversation, from 0.
        has_ids: Show token ids, which needs no tokenizer.

    Raises:
        UserError: If the run holds no such answer, or its tokenizer cannot be found.
    """
    from bench.report.questions import question_text

    sample = find_sample(stored.samples, prompt_id, turn)
    texts = None if has_ids else pieces(sample.ids, load_decode(stored.run))
    question, reason = question_text(stored.run, prompt_id, turn)
    title = f"{stored.run.method} on {prompt_id}, turn {turn + 1}"
    where = f"{stored.run.model}; run {stored.run.run_id}"
    return timeline_page(sample, timeline(sample, texts), title, question=question or reason, where=where)


def timeline_page(
    sample: Sample, tokens: Sequence[Token], title: str, *, question: str = "", where: str = ""
) -> str:
    """The timeline as one HTML file: the answer with its tokens marked, then a table of rounds.

    Args:
        sample: The answer.
        tokens: Its tokens, see `timeline`.
        title: Heading of the page.
        question: What was asked, or why it is not shown.
        where: Model and run.
    """
    from bench.report.fill import fill_template

    timing = sample.timing
    seconds = list(timing.rounds_s) if timing else []
    rows = [
        (number, round_, f"{1e3 * seconds[number - 1]:.1f}" if len(seconds) == len(sample.rounds) else "-")
        for number, round_ in enumerate(sample.rounds, start=1)
    ]
    by_round: dict[int, list[Token]] = {number: [] for number, _, _ in rows}
    for token in tokens[1:]:
        by_round[token.round].append(token)
    return fill_template(
        "timeline.html",
        title=title,
        where=where,
        question=question,
        tokens=tokens,
        rounds=[(number, round_, taken, by_round[number]) for number, round_, taken in rows],
        counts={origin.value: sum(token.origin is origin for token in tokens) for origin in Origin},
        rejected=sum(round_.drafted - round_.accepted for round_ in sample.rounds),
        prefill_ms="-" if timing is None else f"{1e3 * timing.prefill_s:.1f}",
        decode_ms="-" if timing is None else f"{1e3 * timing.decode_s:.0f}",
        first=tokens[0],
    )


def timeline_file(label: str, prompt_id: str, turn: int) -> str:
    """Name of the file of one answer in the run's folder; the turn counts from 1."""
    parts = ["timeline", *([label] if label else []), prompt_id, f"turn{turn}"]
    return re.sub(r"[^\w.-]", "_", "-".join(parts)) + ".html"


def listing(stored: StoredRun, given: str) -> str:
    """The answers that a run holds, a line each, and the command that shows one.

    Args:
        stored: A run of one method.
        given: How the run was named on the command line.
    """
    answers: dict[tuple[str, int], Sample] = {}
    for sample in stored.samples:
        if sample.arm is Arm.METHOD and sample.error is None:
            answers.setdefault((sample.prompt_id, sample.turn), sample)
    rows = [
        (prompt, str(turn + 1), sample.subtask, str(len(sample.ids)), str(len(sample.rounds)), _pace(sample))
        for (prompt, turn), sample in answers.items()
    ]
    header = ("prompt id", "turn", "kind", "tokens", "rounds", "tokens per pass")
    command = f"show one: python -m bench.report timeline {given} {rows[0][0] if rows else 'ID'} --turn 1"
    return "\n".join([*text_table([header, *rows]), command])


def _pace(sample: Sample) -> str:
    return f"{len(sample.ids) / (1 + len(sample.rounds)):.2f}"


def pieces(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The text each token adds: the growth of the decoded answer.

    A token that ends inside a character adds nothing; the one that completes it adds the character.
    """
    texts: list[str] = []
    before = ""
    for end in range(1, len(ids) + 1):
        text = decode(ids[:end])
        is_whole = not text.endswith(UNFINISHED) and text.startswith(before)
        texts.append(text[len(before) :] if is_whole else "")
        before = text if is_whole else before
    return texts


def load_decode(run: Run) -> Callable[[Sequence[int]], str]:
    """The decoding function of a run's tokenizer, special tokens shown.

    Raises:
        UserError: If its model cannot be found.
    """
    from bench.runtime.checkpoint_files import COMPANIONS, fetch  # loads torch
    from bench.tasks.tokenizer import load_tokenizer

    model = run.config["model"]
    own = model.get("tokenizer")
    folder = fetch(own or model["path"], None if own else model.get("revision"), COMPANIONS)
    tokenizer = load_tokenizer(folder)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))

    return decode
