"""What a run was asked, for telling settings apart: hashes of its record and what was set beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def template_of(identity: Mapping[str, Any]) -> str:
    """Hash of the chat template, and what it was given with ``chat.*``."""
    return _joined(identity.get("template", ""), identity.get("chat"))


def questions_of(identity: Mapping[str, Any]) -> str:
    """Hash of the questions, and how their file was read where that was set."""
    task = identity.get("task", {})
    read = {key: task[key] for key in ("column", "format") if task.get(key) is not None}
    return _joined(identity.get("questions", ""), read)


def _joined(digest: object, more: Mapping[str, Any] | None) -> str:
    return f"{digest} {json.dumps(more, sort_keys=True)}" if more else str(digest)
