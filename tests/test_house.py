"""The rules of the house that a program can check: floors, sizes, rooms with a purpose, plain words."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("bench/**/*.py"), *ROOT.glob("methods/**/*.py")])
FOLDERS = sorted({path.parent for path in SOURCES})
MOST_LINES, MOST_FUNCTION_LINES = 300, 60
FLOORS = (
    (
        "bench.PACKAGE_PREFIX",
        "bench.PACKAGE_ROOT",
        "bench.errors",
        "bench.records.files",
        "bench.records.model",
        "bench.records.rounds",
    ),
    ("bench.runtime",),
    ("methods",),
)
"""What decodes, from the ground up: a floor imports itself and what lies below."""
RIDDLES = (
    "says no more than its base does",
    "wait until they could win",
    "if every token waited for were a match",
    "for nobody asks",
    "are not asked",
    "says behind its end",
    "never came through",
    "says it all",
    "ever needs a recording of its own",
)
MOST_FOR_ONE_IN = 20


def imports(path: Path) -> Iterator[str]:
    """Our modules that a file imports while it runs."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{item.name}" for item in node.names)
        elif isinstance(node, ast.Import):
            yield from (item.name for item in node.names)


def is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("floor", range(len(FLOORS)), ids=[floor[0] for floor in FLOORS])
def test_imports_only_go_down(floor: int) -> None:
    allowed = tuple(package for below in FLOORS[: floor + 1] for package in below)
    upward = []
    for path in SOURCES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if is_in(name, FLOORS[floor]):
            ours = [item for item in imports(path) if is_in(item, ("bench", "methods"))]
            upward += [f"{name} imports {item}" for item in ours if not is_in(item, allowed)]
    assert not upward


def test_no_file_is_longer_than_its_bound() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_function_is_longer_than_its_bound() -> None:
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.FunctionDef)
                and (node.end_lineno or 0) - node.lineno >= MOST_FUNCTION_LINES
            ):
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert long == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_room_says_what_lives_in_it(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text, f"{folder / '__init__.py'} has no docstring"
    assert len(text.split()) >= 10


def test_the_top_floor_is_nearly_empty() -> None:
    assert len(list((ROOT / "bench").glob("*.py"))) <= 6
    assert len(list((ROOT / "methods").glob("*.py"))) <= 1


def test_riddles_do_not_come_back() -> None:
    texts = {path: re.sub(r"\s+", " ", path.read_text(encoding="utf-8")) for path in SOURCES}
    assert [(path.name, riddle) for path, text in texts.items() for riddle in RIDDLES if riddle in text] == []
    loops = sum(len(re.findall(r"\bfor one in\b", text)) for text in texts.values())
    assert loops < MOST_FOR_ONE_IN


def test_no_two_modules_of_a_room_differ_by_one_letter() -> None:
    close = []
    for folder in FOLDERS:
        names = sorted(path.stem for path in folder.glob("*.py"))
        close += [
            (str(folder.relative_to(ROOT)), first, second)
            for first in names
            for second in names
            if second in (first + "s", first + "es")
        ]
    assert close == []


def test_what_is_tracked_stays_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert sum((ROOT / name).stat().st_size for name in names) < 60_000_000
