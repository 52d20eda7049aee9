"""One spelling for all commands: ``key=value``, as Hydra has it, also where a command reads plain arguments.

A command that only prints has an `argparse` parser, whose positional arguments and options are the keys:
``python -m bench.report results_dir=results/published check=true`` is ``results/published --check``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence

from bench.errors import UserError, nearest

_KEY_VALUE = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)


def as_arguments(
    parser: argparse.ArgumentParser, given: Sequence[str], names: Mapping[str, str] | None = None
) -> list[str]:
    """The arguments with each ``key=value`` in the parser's own spelling.

    Args:
        parser: Of the command; keys are the names of its arguments.
        given: The command line.
        names: Keys under another name than the parser's, such as ``results_dir``.

    Raises:
        UserError: If a key is unknown, or a flag is neither true nor false.
    """
    actions = [action for action in parser._actions if action.dest != "help"]
    known = {action.dest: action for action in actions}
    other = dict(names or {})
    places: dict[str, list[str]] = {}
    options, plain = list[str](), list[str]()
    for text in given:
        match = _KEY_VALUE.fullmatch(text)
        if match is None:
            plain.append(text)
            continue
        action = known.get(other.get(match[1], match[1]))
        if action is None:
            raise _unknown(match[1], [*known, *other])
        if action.option_strings:
            options += _option([part for part in actions if part.dest == action.dest], match[2])
        else:
            places[action.dest] = match[2].strip("[]").split(",") if action.nargs == "+" else [match[2]]
    if not places:
        return [*plain, *options]
    return [*_in_places(known.values(), places, plain), *options]


def _in_places(
    actions: Iterable[argparse.Action], places: Mapping[str, list[str]], plain: Sequence[str]
) -> list[str]:
    """Positional arguments in their order: named ones where they belong, plain ones in what is left."""
    left, ordered = list(plain), list[str]()
    for action in actions:
        if action.option_strings:
            continue
        if action.dest in places:
            ordered += places[action.dest]
        elif left and not left[0].startswith("-"):
            ordered.append(left.pop(0))
    return [*ordered, *left]


def _option(actions: Sequence[argparse.Action], value: str) -> list[str]:
    """The option that stands for a key's value; where a key has several, each has a constant as its value."""
    action = actions[0]
    if action.nargs != 0:
        return [action.option_strings[-1], value]
    flags: dict[str, list[str]] = {
        str(part.const).lower(): list(part.option_strings[-1:]) for part in actions
    }
    flags |= {"false": []} if "true" in flags else {}
    if value.lower() not in flags:
        raise UserError(
            f"{action.dest} must be one of {', '.join(flags)}, got {value!r}",
            f"write {action.dest}={next(iter(flags))}",
        )
    return flags[value.lower()]


def _unknown(key: str, known: Sequence[str]) -> UserError:
    near = nearest(key, list(known))
    return UserError(
        f"unknown key {key}", f"{f'did you mean {near}? ' if near else ''}known: {', '.join(sorted(known))}"
    )
