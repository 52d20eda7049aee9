r"""The final answer that a text gives, as MATH, AIME and GPQA are scored: in a box, or as a letter.

The rules are plain string rules of our own: nothing is solved, and no algebra is done. ``\frac{1}{2}``,
``1/2`` and ``0.5`` are equal, ``x+1`` and ``1+x`` are not.
"""

import re
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_SIZES = re.compile(r"\\(?:left|right|displaystyle|big|Big|bigg|Bigg)(?![A-Za-z])")
_SPACES = re.compile(r"\\[ ,;:!]|\\q?quad(?![A-Za-z])|~|\s")
_TEXTS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_UNITS = re.compile(r"\^\{?\\circ\}?|\\degree|\\%|%|\\\$|\$")
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)")
_FRACTION = re.compile(r"(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LETTER = r"(?:[(\[]([A-Ha-h])[)\]]|([A-H])(?![A-Za-z']))"
"""An option: in brackets, or a capital."""
_STATED = re.compile(rf"(?i:\banswer(?:\s+is|\s*:))\s*[*_]*(?:(?i:option)\s+)?{_LETTER}")
_ALONE = re.compile(r"\s*[*_]*(?:[(\[]([A-Ha-h])[)\]]|([A-H])(?:[.:)]|[*_]*\s*$))")


def boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}`` whose braces close; None without one."""
    found = None
    for match in _BOX.finditer(text):
        depth = 1
        for place in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                found = text[match.end() : place]
                break
    return found


def is_same_result(given: str, wanted: str) -> bool:
    """Whether two results are equal as numbers, or letter by letter without spaces, units and sizes."""
    first, second = _plain(given), _plain(wanted)
    if first == second:
        return bool(first)
    numbers = _number(first), _number(second)
    return None not in numbers and numbers[0] == numbers[1]


def chosen_letter(text: str) -> str | None:
    """The option that an answer chooses, as a capital letter; None if it does not say.

    The last box counts if it holds a letter; else the last "answer is B" or "Answer: B"; else a letter that
    the text begins with.
    """
    box = boxed(text)
    if box is not None and (match := re.fullmatch(r"[(\[]?([A-H])[)\].]?", _plain(box).upper())):
        return match[1]
    found = list(_STATED.finditer(text)) or [match for match in [_ALONE.match(text)] if match]
    return (found[-1][1] or found[-1][2]).upper() if found else None


def _plain(result: str) -> str:
    """A result without what does not change its meaning."""
    text = _TEXTS.sub(r"\1", _SIZES.sub("", result))
    text = _SPACES.sub("", _UNITS.sub("", text)).replace("dfrac", "frac").replace("tfrac", "frac")
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", _THOUSANDS.sub("", text))
    return text.rstrip(".").removeprefix("x=")


def _number(text: str) -> Fraction | None:
    match = _FRACTION.fullmatch(text)
    if match:
        text = f"{match[1]}{match[2]}/{match[3]}".replace("--", "")
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
