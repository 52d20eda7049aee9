"""The exception for mistakes that the user can correct; the command line prints it without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in the input: what is wrong, and the fix.

    The command line prints both lines and exits with status 2.

    Args:
        what: What is wrong, naming the value and the rule it breaks.
        fix: What to do about it, in the imperative.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}\n{fix}")
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        """Keep both lines when another process raised the error."""
        return type(self), (self.what, self.fix)


def nearest(wrong: str, options: Sequence[str]) -> str | None:
    """The option that a misspelt name probably means, for "did you mean"; None if none is close."""
    matches = difflib.get_close_matches(wrong, options, n=1)
    return matches[0] if matches else None
