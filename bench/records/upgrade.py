"""Old records made new, so that a file measured today is read by every later version of the code.

A record names the schema version it was written with. Reading takes it through one function per step, from
its version to the next and on to `SCHEMA_VERSION`; writing always uses the newest. To change the meaning of a
stored field: raise `SCHEMA_VERSION`, add the step from the version before it here, and keep a file of the old
version under ``tests/data`` that must stay readable. A new field with a default needs neither.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import UserError
from bench.records.model import SCHEMA_VERSION

Step = Callable[[dict[str, Any]], dict[str, Any]]
"""From a plain record of one version to one of the next."""

RUN_STEPS: Mapping[int, Step] = {}
"""For ``run.json``, by the version that a step starts from. Version 1 is the first: there is no step yet."""
SAMPLE_STEPS: Mapping[int, Step] = {}
"""For one line of ``samples.jsonl``."""

FIRST_VERSION = 1
"""What a record is that names no version: the first lines of samples did not."""


def upgrade(
    record: Mapping[str, Any], steps: Mapping[int, Step], newest: int = SCHEMA_VERSION
) -> dict[str, Any]:
    """The record as version `newest` would have written it, with ``schema_version`` set to that.

    Args:
        record: As stored; not changed.
        steps: By the version each starts from; a version without a step is stored alike in the next.
        newest: Version to reach.

    Raises:
        UserError: If the record is of a version that this code does not know.
    """
    version = record.get("schema_version", FIRST_VERSION)
    if not isinstance(version, int) or not FIRST_VERSION <= version <= newest:
        known = f"{FIRST_VERSION}" if newest == FIRST_VERSION else f"{FIRST_VERSION} to {newest}"
        raise UserError(
            f"has schema version {version}, this code knows {known}",
            "use the version of the benchmark that wrote it, or measure again into another folder",
        )
    upgraded = dict(record)
    for start in range(version, newest):
        upgraded = steps[start](upgraded) if start in steps else upgraded
    return upgraded | {"schema_version": newest}
