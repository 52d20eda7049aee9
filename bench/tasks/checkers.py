"""Whether an answer is well formed and whether it is right, by a check spec; no model judges.

A check spec is a mapping that JSON can hold. Its `kind` says when an answer is right:
    contains: all `facts` occur as whole words, and no phrase of `forbid` does.
    number: the last "The answer is N" has N equal to `value`.
    reference: the overlap with the words of `text` is at least `min_overlap` (default 0.97: one wrong word in
        a text of forty words still passes, two do not).
    mentions: each of `groups` lists phrases, of which at least one occurs; case, accents and punctuation are
        ignored. For answers in the model's own words.
    last_number: the last number in the answer equals `value`; commas between digits are ignored.
    boxed: the last LaTeX box in the answer holds `value`, see `bench.tasks.final_answers`.
    choice: the answer chooses the option whose letter is `value`.
    open: cannot be decided, `is_right` returns None.
Its `form` says when it is well formed: prose (default), sentence (exactly one), list (three points), email or
free (any text, also lists and code, without special tokens and loops).

A right answer in quite other words can count as wrong. A wrong number, name or word passes only if the spec
does not check it.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from bench.tasks.final_answers import boxed, chosen_letter, is_same_result

MIN_WORDS = 4
MAX_PERIOD_WORDS = 12  # longest repeated phrase that counts as a loop
MIN_REPEATS = 3
MIN_OVERLAP = 0.97
LIST_POINTS = 3
_SENTENCE_END = re.compile(r'[.!?]"?(?=\s|$)')
_FINAL_NUMBER = re.compile(r"\bthe answer is (-?\d+)(?![\d.,]*\d)", re.IGNORECASE)
_WORD = re.compile(r"\w+|[^\w\s]")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")


def is_well_formed(check: Mapping[str, Any], answer: str) -> bool:
    """Whether the answer has no loop, the form of the spec, and unless that is free, complete sentences.

    Args:
        check: The spec; only its `kind` and `form` are read.
        answer: The answer, without special tokens.

    Raises:
        ValueError: If the spec names an unknown form.
    """
    text = answer.strip()
    if not text or "<|" in text or "\N{REPLACEMENT CHARACTER}" in text:
        return False
    if check.get("form") == "free":  # the rules of a table may repeat: only words count as a loop
        return not has_loop(" ".join(word for word in text.split() if re.search(r"\w", word)))
    if len(text.split()) < MIN_WORDS:
        return False
    if has_loop(text) or text.count('"') % 2 or not text.endswith((".", "!", "?", '."', '!"', '?"')):
        return False
    return _has_form(check, text)


def is_right(check: Mapping[str, Any], answer: str) -> bool | None:
    """Whether the answer is right by the spec; None for an open question.

    Args:
        check: The spec.
        answer: The answer, without special tokens.

    Raises:
        ValueError: If the spec names an unknown kind.
    """
    match check["kind"]:
        case "open":
            return None
        case "contains":
            stated = all(states(answer, fact) for fact in check["facts"])
            return stated and not any(states(answer, phrase) for phrase in check.get("forbid", ()))
        case "number":
            numbers = _FINAL_NUMBER.findall(answer)
            return bool(numbers) and int(numbers[-1]) == check["value"]
        case "reference":
            needed = float(check.get("min_overlap", MIN_OVERLAP))
            return overlap(_words(answer), _words(check["text"])) >= needed
        case "mentions":
            return all(any(mentions(answer, phrase) for phrase in group) for group in check["groups"])
        case "last_number":
            numbers = _NUMBER.findall(answer)
            return bool(numbers) and Decimal(numbers[-1].replace(",", "")) == Decimal(str(check["value"]))
        case "boxed":
            return is_same_result(boxed(answer) or "", str(check["value"]))
        case "choice":
            return chosen_letter(answer) == str(check["value"])
        case kind:
            known = "contains, number, reference, mentions, last_number, boxed, choice or open"
            raise ValueError(f"check kind must be {known}, got {kind!r}")


def states(answer: str, fact: str) -> bool:
    """Whether the fact occurs in the answer as whole words; case and white space are ignored."""
    text, phrase = " ".join(answer.lower().split()), " ".join(fact.lower().split())
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def mentions(answer: str, phrase: str) -> bool:
    """Whether the phrase occurs in the answer as whole words; case, accents and punctuation are ignored."""
    return f" {_plain(phrase)} " in f" {_plain(answer)} "


def has_loop(text: str) -> bool:
    """Whether some phrase of up to twelve words stands at least three times in a row."""
    words = text.lower().split()
    return any(_repeats(words, period) for period in range(1, MAX_PERIOD_WORDS + 1))


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Twice the longest common subsequence over the sum of both lengths: 1 for equal sequences."""
    if not first or not second:
        return 0.0
    row = [0] * (len(second) + 1)  # row[j]: longest common subsequence of the words so far and second[:j]
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return 2 * row[-1] / (len(first) + len(second))


def _plain(text: str) -> str:
    """Lower-case words without accents, one space apart; 1,240 becomes 1240."""
    letters = unicodedata.normalize("NFKD", re.sub(r"(?<=\d),(?=\d{3})", "", text.casefold()))
    words = re.findall(r"\w+", "".join(letter for letter in letters if not unicodedata.combining(letter)))
    return " ".join(words)


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _repeats(words: Sequence[str], period: int) -> bool:
    """Whether `MIN_REPEATS` equal blocks of `period` words stand in a row somewhere."""
    run = 0  # length of the current run of words that equal the word one period before
    for i in range(period, len(words)):
        run = run + 1 if words[i] == words[i - period] else 0
        if run >= period * (MIN_REPEATS - 1):
            return True
    return False


def _has_form(check: Mapping[str, Any], text: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    match check.get("form", "prose"):
        case "prose":
            closed = check["kind"] != "number" or _FINAL_NUMBER.search(_last_sentence(text)) is not None
            return closed and _opens_well(text) and not any(line.startswith("- ") for line in lines)
        case "sentence":
            return _opens_well(text) and len(_SENTENCE_END.findall(text)) == 1
        case "list":
            return len(lines) == LIST_POINTS and all(
                re.fullmatch(r"- [A-Z\d].*[.!?]", line) for line in lines
            )
        case "email":
            return len(lines) >= LIST_POINTS and re.fullmatch(r"Dear \w+,", lines[0]) is not None
        case form:
            raise ValueError(f"check form must be prose, sentence, list, email or free, got {form!r}")


def _opens_well(text: str) -> bool:
    """Whether the text opens with a capital, a digit or a quotation mark."""
    return text[0].isupper() or text[0].isdigit() or text[0] == '"'


def _last_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s+", text)[-1]
