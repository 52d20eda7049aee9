"""Certificates: what they prove, for which source, and what a table may say."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import bench.prove.certificates
from bench.prove.certificates import Certificate, Check, Status, badge, badge_of, load, save, source_hash
from bench.records.model import Run

GREEDY, SAMPLING = (Check(kind, "tiny", Status.PASSED, "fine") for kind in ("greedy", "sampling"))
IDLE = {"drafted": 90, "accepted": 0}
BOTH = {"greedy": "greedy-exact", "sampling": "sampling-exact"}


def certificate(*checks: Check, declared: dict[str, str] | None = None, caught: bool = True) -> Certificate:
    return Certificate(
        method="mine",
        target="mine.Mine",
        params={"length": 3},
        source_hash="0badcafe",
        declared=BOTH if declared is None else declared,
        checks=checks,
        controls={"off by one": "greedy" if caught else None},
        settings={},
        created="2026-01-01T00:00:00+00:00",
        versions={},
    )


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (certificate(GREEDY, SAMPLING), "proved"),
        (certificate(GREEDY), "greedy proved, sampling not provable here"),
        (certificate(GREEDY, replace(SAMPLING, status=Status.FAILED)), "FAILED"),
        (certificate(GREEDY, SAMPLING, caught=False), "not provable here"),
        (certificate(replace(GREEDY, figures=IDLE), SAMPLING), "not provable here"),
        (certificate(replace(GREEDY, status=Status.SKIPPED), declared={}), "not provable here"),
        (certificate(declared=dict.fromkeys(BOTH, "lossy")), "named lossy"),
        (certificate(GREEDY, declared=BOTH | {"sampling": "lossy"}), "greedy proved, sampling named lossy"),
    ],
    ids=[
        "all passed",
        "no sampling",
        "one failed",
        "control escaped",
        "nothing accepted",
        "fits nothing",
        "lossy",
        "half lossy",
    ],
)
def test_verdict(found: Certificate, verdict: str) -> None:
    assert found.verdict == verdict


def test_a_certificate_reads_back_as_written(tmp_path: Path) -> None:
    written = certificate(GREEDY, replace(SAMPLING, figures={"p_value": 0.5}))
    assert save(written, tmp_path) == tmp_path / "certificates" / "mine-0badcafe.json"
    assert load(tmp_path, "mine", "0badcafe") == written
    assert load(tmp_path, "mine", "00000000") is None


def test_a_badge_is_earned_by_a_certificate_of_the_same_source(tmp_path: Path) -> None:
    save(certificate(GREEDY), tmp_path)
    assert badge(tmp_path, "mine", "0badcafe", "greedy-exact") == "greedy-exact: proved"
    assert badge(tmp_path, "mine", "0badcafe", "sampling-exact") == "sampling-exact: declared, not proved"
    assert badge(tmp_path, "mine", "deadbeef", "greedy-exact") == "greedy-exact: declared, not proved"
    assert badge(tmp_path, "other", "0badcafe", "greedy-exact") == "greedy-exact: declared, not proved"
    assert badge(tmp_path, "mine", "0badcafe", "lossy") == "lossy"


def test_a_shipped_certificate_is_told_from_one_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.prove.certificates, "SHIPPED", tmp_path / "shipped")
    save(certificate(GREEDY), tmp_path / "shipped")
    shipped = badge(tmp_path, "mine", "0badcafe", "greedy-exact")
    assert shipped == "greedy-exact: proved as shipped, not here"
    assert badge(tmp_path, "mine", "0badcafe", "sampling-exact") == "sampling-exact: declared, not proved"
    save(certificate(GREEDY), tmp_path)
    assert badge(tmp_path, "mine", "0badcafe", "greedy-exact") == "greedy-exact: proved"


def test_a_failed_certificate_is_told(tmp_path: Path) -> None:
    save(certificate(replace(GREEDY, status=Status.FAILED)), tmp_path)
    assert "REFUTED" in badge(tmp_path, "mine", "0badcafe", "greedy-exact")


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["0badcafe"], "proved"),
        (["0badcafe", "deadbeef"], "declared, not proved"),
        ([], "declared, not proved"),
    ],
    ids=["one source", "changed between attempts", "not recorded"],
)
def test_the_badge_of_a_run_is_about_the_source_that_was_measured(
    sources: list[str], words: str, tmp_path: Path
) -> None:
    save(certificate(GREEDY, SAMPLING), tmp_path)
    attempts = tuple({"source": one} for one in sources)
    run = Run("r", "mine", "qa", "tiny", {}, {}, attempts, labels={"exactness": "greedy-exact"})
    assert badge_of(run, tmp_path) == f"greedy-exact: {words}"


def test_hash_covers_the_method_and_what_it_imports_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "outoftree"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text("from outoftree import tables\nimport json\n\nclass Mine: ...\n")
    (package / "tables.py").write_text("from . import deep\n")
    (package / "deep.py").write_text("X = 1\n")
    (package / "deep.c").write_text("/* compiled by deep.py */\n")
    (package / "stranger.py").write_text("Y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = source_hash("outoftree.mine.Mine")
    (package / "stranger.py").write_text("Y = 2\n")
    assert source_hash("outoftree.mine.Mine") == before
    for name in ("deep.py", "mine.py", "deep.c"):
        (package / name).write_text((package / name).read_text() + "\n")
        assert source_hash("outoftree.mine.Mine") != before
        before = source_hash("outoftree.mine.Mine")
    sys.modules.pop("outoftree", None)


def test_shared_rules_and_the_runtime_are_part_of_a_methods_source(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.prove import certificates

    found = certificates._closure("methods.kangaroo.draft")
    assert {
        "methods.core.acceptance",
        "methods.core.chain",
        "bench.runtime.cache",
        "bench.runtime.rows",
    } <= set(found)
    assert not any(name.startswith(("bench.prove", "bench.measure.runner")) for name in found)


def test_what_is_compiled_is_part_of_a_methods_source() -> None:
    from bench.prove import certificates

    found = certificates._closure("methods.core.autoregressive")["bench.runtime.tiers.compiled.library"]
    assert {one.name for one in certificates._c_sources(found)} >= {"layers.c", "native.h", "products.c"}


def test_a_target_without_source_is_refused() -> None:
    with pytest.raises(ValueError, match="no module with source"):
        source_hash("nowhere.at.All")
