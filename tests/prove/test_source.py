"""The hash of what decodes: what it is blind to, and what it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.prove.source import decoding_modules, source_hash

METHOD = '''
"""A method."""
import json
from outoftree.rules import first, LIMIT


class Mine:
    """Drafts."""

    def draft(self, root: int) -> int:
        # the best token
        best = first(root, LIMIT)
        return [best for token in range(best)]

    def trainer(self):
        from outoftree.training import Trainer

        return Trainer(self)
'''
RULES = '''
LIMIT: int = 4


def first(a: int, b: int) -> bool:
    """Whether a is less than b."""
    return a < b
'''
TRAINING = "class Trainer:\n    loss = 1\n"
TARGET = "outoftree.mine.Mine"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A method out of tree with a module of rules, a module of training code, and C beside it."""
    folder = tmp_path / "outoftree"
    folder.mkdir()
    for name, text in (("mine", METHOD), ("rules", RULES), ("training", TRAINING), ("__init__", "")):
        (folder / f"{name}.py").write_text(text)
    (folder / "fast.c").write_text("#define N 4\nint f(int x) { return x + N; } /* adds */\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "outoftree"]:
        del sys.modules[name]


def edited(folder: Path, file: str, old: str, new: str) -> str:
    """The hash after an edit that must have found something to edit."""
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return source_hash(TARGET, "static")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mine.py", "# the best token", "# the likeliest token\n"),
        ("mine.py", '"""Drafts."""', '"""Drafts one token."""\n'),
        ("mine.py", '    """Drafts."""\n', ""),
        ("mine.py", "root: int) -> int", "root: float)"),
        ("mine.py", "first(root, LIMIT)", "first(\n            root,\n            LIMIT,\n        )"),
        ("mine.py", "best", "likeliest"),
        ("mine.py", "token", "item"),
        ("mine.py", "return Trainer(self)", "return Trainer(self, 7)"),
        ("training.py", "loss = 1", "loss = 2"),
        ("fast.c", "/* adds */", "// adds N"),
        ("fast.c", "{ return x + N; }", "{\n    return x + N;\n}"),
    ],
    ids=[
        *("comment", "docstring", "no docstring", "annotation", "layout", "local variable", "loop variable"),
        *("trainer", "training module", "C comment", "C layout"),
    ],
)
def test_what_computes_nothing_keeps_the_hash(file: str, old: str, new: str, package: Path) -> None:
    before = source_hash(TARGET, "static")
    assert edited(package, file, old, new) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("rules.py", "a < b", "a <= b"),
        ("rules.py", "LIMIT: int = 4", "LIMIT: int = 5"),
        ("rules.py", "a < b", "b < a"),
        ("mine.py", "range(best)", "range(best + 1)"),
        ("mine.py", "import first, LIMIT", "import LIMIT\nfrom json import dumps as first"),
        ("fast.c", "N 4", "N 5"),
    ],
    ids=["operator", "constant", "order", "argument", "what a name means", "C"],
)
def test_what_computes_changes_the_hash(file: str, old: str, new: str, package: Path) -> None:
    before = source_hash(TARGET, "static")
    assert edited(package, file, old, new) != before


def test_a_definition_may_move_to_another_file(package: Path) -> None:
    before = source_hash(TARGET, "static")
    (package / "rules.py").rename(package / "acceptance.py")
    assert edited(package, "mine.py", "outoftree.rules", "outoftree.acceptance") == before
    limit = "\nLIMIT: int = 4\n"
    (package / "limits.py").write_text(limit)
    (package / "acceptance.py").write_text((package / "acceptance.py").read_text().replace(limit, ""))
    moved = "from outoftree.acceptance import first\nfrom outoftree.limits import LIMIT"
    assert edited(package, "mine.py", "from outoftree.acceptance import first, LIMIT", moved) == before


def test_rules_runtime_and_the_tier_are_part_of_it_and_training_is_not() -> None:
    names = set(decoding_modules("methods.kangaroo.draft.Kangaroo", "compiled"))
    assert {"methods.core.acceptance", "methods.core.chain", "bench.runtime.cache"} <= names
    assert {"bench.runtime.loading", "bench.runtime.decoder"} <= names
    assert any(name.startswith("bench.runtime.tiers.compiled") for name in names)
    assert not any("graph" in name for name in names)
    assert not any(name.startswith(("bench.prove", "bench.measure", "bench.train")) for name in names)
    assert not any(name.endswith(".module") or ".training" in name for name in names)


def test_another_tier_is_other_code() -> None:
    hashes = {tier: source_hash("methods.core.autoregressive.Autoregressive", tier) for tier in TIERS}
    assert len(set(hashes.values())) == len(TIERS)


TIERS = ("eager", "compiled", "graph")


def test_a_target_without_source_is_refused() -> None:
    with pytest.raises(ValueError, match="no module with source"):
        source_hash("nowhere.at.All", "static")


def test_what_a_method_in_a_single_file_imports_from_its_folder_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lonefile.py").write_text("from lonehelper import K\n\n\nclass Mine:\n    k = K\n")
    (tmp_path / "lonehelper.py").write_text("K = 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = source_hash("lonefile.Mine", "static")
    assert {"lonefile", "lonehelper"} <= set(decoding_modules("lonefile.Mine", "static"))
    (tmp_path / "lonehelper.py").write_text("K = 5\n")
    assert source_hash("lonefile.Mine", "static") != before
