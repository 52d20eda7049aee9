"""What an earlier start left in a folder: read with care, and continued with the same settings only."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError

_SHOWN = 4  # settings that a message lists


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """The object in a JSON file that an earlier start wrote.

    Args:
        path: The file.
        fix: What to do if it is damaged.

    Raises:
        UserError: If it cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}", fix) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object", fix)
    return content


def require_same_settings(
    place: Path, then: object, now: Mapping[str, Any], fix: str, *, ignored: Collection[str] = ()
) -> None:
    """Refuse to continue what was made with other settings.

    Args:
        place: The file or folder, for the message.
        then: Its settings; anything but a mapping counts as none.
        now: The settings of this start.
        fix: What to do about a difference.
        ignored: Settings that may differ.

    Raises:
        UserError: If settings differ; the message names them with both values.
    """
    made: Mapping[str, Any] = then if isinstance(then, Mapping) else {}
    keys = sorted(str(key) for key in {*made, *now} - set(ignored) if made.get(key) != now.get(key))
    if keys:
        values = [f"{key}={made.get(key)} then, {now.get(key)} now" for key in keys[:_SHOWN]]
        values += [f"and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
        raise UserError(f"{place} was made with other settings ({'; '.join(values)})", fix)
