"""Names that become parts of folder names, and the hash of a run's identity."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from bench.errors import UserError

NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
"""What method, task and model may be called."""


def plain_name(text: str) -> str:
    """A text as a name: letters without accents, and a hyphen for everything that no name may hold."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"^[.-]+|[^A-Za-z0-9._-]+", "-", letters).strip("-") or "model"


def run_id(method: str, task: str, model: str, identity: Mapping[str, Any]) -> str:
    """``<method>-<task>-<model>-<8 hex>``: names for people, and a hash of the whole identity.

    Raises:
        UserError: If a name cannot be part of a folder name.
        ValueError: If the identity holds something that is not plain JSON.
    """
    for kind, name in (("method", method), ("task", task), ("model", model)):
        if not re.fullmatch(NAME, name):
            cure = f", as in model.name={plain_name(name)}" if kind == "model" else ""
            fix = f"use letters, digits, '.', '_' and '-' in names{cure}"
            raise UserError(f"{kind} name {name!r} cannot be part of a folder name", fix)
    digest = hashlib.sha256(canonical(identity).encode()).hexdigest()
    return f"{method}-{task}-{model}-{digest[:8]}"


def canonical(identity: Mapping[str, Any]) -> str:
    """An identity as JSON text that does not depend on the order of its keys.

    Raises:
        ValueError: If it holds something that is not plain JSON.
    """
    try:
        return json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the identity of a run must be plain JSON: {error}") from error
