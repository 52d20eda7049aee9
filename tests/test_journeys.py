"""The journeys of a newcomer stay short: from the command to a token, and from a record to the board."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from tests.forks import FORKS
from tests.journeys import MOST, journeys


def test_few_files_lie_on_the_way() -> None:
    with ProcessPoolExecutor(1, FORKS) as process:
        found = process.submit(journeys).result()
    assert {name: files for name, files in found.items() if not 10 < len(files) <= MOST[name]} == {}
