"""Refusing a configured value: which key, which rule, which value, and what to write instead."""

from collections.abc import Sequence

from bench.errors import UserError


def require_choice(key: str, value: str, options: Sequence[str]) -> None:
    """Refuse a value that is not one of the options.

    Raises:
        UserError: If it is not.
    """
    if value not in options:
        raise UserError(
            f"{key} must be one of {', '.join(options)}, got {value!r}", f"use {key}={options[0]}"
        )


def require_least(key: str, value: float | None, least: int) -> None:
    """Refuse a value below `least`; None passes.

    Raises:
        UserError: If it is below, or no number.
    """
    if value is not None and not value >= least:  # also refuses nan
        raise UserError(f"{key} must be at least {least}, got {value}", f"use {key}={least} or more")
