"""The one exception that means "the user can mend this": the command line prints it without a traceback."""

from __future__ import annotations


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
        """Both lines survive the way from another process."""
        return type(self), (self.what, self.fix)
