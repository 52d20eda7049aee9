"""Certificates: what they prove, for which code, settings and places, and what a table may say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench.prove.certificates
from bench.prove.certificates import (
    Certificate,
    Check,
    Code,
    Place,
    Status,
    badge_of,
    certificates_of,
    is_proved_here,
    save,
    tier_words,
)
from bench.records.model import Run

RULES, GREEDY, SAMPLING = (
    Check(kind, "tiny", Status.PASSED, "fine") for kind in ("rules", "greedy", "sampling")
)
ALL = (RULES, GREEDY, SAMPLING)
IDLE = {"drafted": 90, "accepted": 0}
BOTH = {"greedy": "greedy-exact", "sampling": "sampling-exact"}
PROVED = Code("0badcafe", "c8bcf002bbde", "2026-01-01T00:00:00+00:00")
LATER = Code("deadbeef", "fb623fb00000", "2026-02-01T00:00:00+00:00")


def certificate(*checks: Check, declared: dict[str, str] | None = None, caught: bool = True) -> Certificate:
    return Certificate(
        method="mine",
        target="mine.Mine",
        params={"length": 3, "weights": "package:here"},
        device="cpu",
        tiers={"float32": "compiled", "bfloat16": "static"},
        declared=BOTH if declared is None else declared,
        checks=checks,
        controls={"off by one": "greedy" if caught else None},
        transcript={"prompt 0": "abc"},
        code=(PROVED,),
        settings={},
        versions={},
    )


def measured(*sources: str, **changes: Any) -> Run:
    facts = {"length": 3, "tier": "compiled", "dtype": "float32", "gpu": None, "weights": "./mine"} | changes
    machine = {"dtype": facts["dtype"], "gpu": facts["gpu"]}
    attempts = (*({"source": source, **machine} for source in sources), machine)  # the last one only printed
    identity = {"method": {"target": "mine.Mine", "length": facts["length"], "weights": facts["weights"]}}
    identity["runtime"] = {"draft_head": facts["draft_head"]} if "draft_head" in facts else {}
    labels = {"exactness": facts.get("exactness", "greedy-exact"), "tier": facts["tier"]}
    return Run("r", "mine", "qa", "tiny", identity, {}, attempts, labels=labels)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (certificate(*ALL), "proved"),
        (certificate(RULES, GREEDY), "greedy proved, sampling not provable here"),
        (certificate(GREEDY, SAMPLING), "not provable here"),
        (certificate(RULES, GREEDY, replace(SAMPLING, status=Status.FAILED)), "FAILED"),
        (certificate(*ALL, Check("premises", "llama", Status.FAILED, "round 3")), "FAILED"),
        (certificate(*ALL, caught=False), "not provable here"),
        (certificate(RULES, replace(GREEDY, figures=IDLE), SAMPLING), "not provable here"),
        (certificate(RULES, replace(GREEDY, status=Status.SKIPPED), declared={}), "not provable here"),
        (certificate(declared=dict.fromkeys(BOTH, "lossy")), "named lossy"),
        (
            certificate(RULES, GREEDY, declared=BOTH | {"sampling": "lossy"}),
            "greedy proved, sampling named lossy",
        ),
    ],
    ids=[
        *("all passed", "no sampling", "no rules", "one failed", "a premise failed", "control escaped"),
        *("nothing accepted", "fits nothing", "lossy", "half lossy"),
    ],
)
def test_verdict(made: Certificate, verdict: str) -> None:
    assert made.verdict == verdict


def test_a_certificate_reads_back_as_written(tmp_path: Path) -> None:
    written = certificate(RULES, GREEDY, replace(SAMPLING, figures={"p_value": 0.5}))
    path = save(written, tmp_path)
    assert list(certificates_of("mine", tmp_path)) == [(path, written)]
    assert list(certificates_of("min", tmp_path)) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": 2, "method": "mine"}'])
def test_a_damaged_certificate_proves_nothing_and_stops_nothing(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "mine-0.json").write_text(text)
    assert list(certificates_of("mine", tmp_path)) == []
    assert "mine-0.json is no certificate" in caplog.text


def test_certificates_of_the_older_schema_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "mine-0badcafe.json").write_text('{"method": "mine", "schema_version": 1}')
    assert list(certificates_of("mine", tmp_path)) == []


def test_a_certificate_is_about_the_number_of_tokens_drafted_but_not_about_their_list() -> None:
    made = certificate(*ALL)
    assert made.has_settings({"length": 3, "draft_vocab": None, "frequent_tokens": "tokens.json"})
    assert not made.has_settings({"length": 3, "draft_vocab": 64, "frequent_tokens": "tokens.json"})
    few = replace(made, params={"length": 3, "draft_vocab": 64, "frequent_tokens": "tokens.json"})
    assert few.has_settings({"length": 3, "draft_vocab": 64, "frequent_tokens": "0badcafe"})
    assert not few.has_settings({"length": 3, "draft_vocab": 65, "frequent_tokens": "tokens.json"})
    assert not few.has_settings({"length": 3, "draft_vocab": None})


def test_other_settings_code_or_places_are_another_file(tmp_path: Path) -> None:
    made = certificate(*ALL)
    others = [
        replace(made, params={"length": 4}),
        replace(made, device="cuda"),
        replace(made, tiers={"float32": "static"}),
        made.carried(LATER),
    ]
    paths = {save(each, tmp_path) for each in (made, *others)}
    assert len(paths) == len(others) + 1
    assert save(replace(made, params={"length": 3, "weights": "elsewhere"}), tmp_path) in paths


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (measured("0badcafe"), "greedy-exact: proved"),
        (measured("0badcafe", exactness="sampling-exact"), "sampling-exact: proved"),
        (measured("0badcafe", exactness="lossy"), "lossy"),
        (measured("0badcafe", dtype="bfloat16", tier="static"), "greedy-exact: proved"),
        (measured("0badcafe", weights="./others"), "greedy-exact: proved"),
        (measured("deadbeef"), "greedy-exact: declared, not proved"),
        (measured("0badcafe", "deadbeef"), "greedy-exact: declared, not proved"),
        (measured(), "greedy-exact: declared, not proved"),
    ],
    ids=[
        *("its own", "sampled", "lossy", "half precision", "other weights"),
        *("other code", "code changed between attempts", "not recorded"),
    ],
)
def test_a_badge_is_earned_by_the_code_that_was_measured(run: Run, words: str, tmp_path: Path) -> None:
    save(certificate(*ALL), tmp_path)
    assert badge_of(run, tmp_path) == words


@pytest.mark.parametrize(
    "changes",
    [
        *({"tier": "static"}, {"dtype": "float16"}, {"gpu": {"name": "H100"}}, {"length": 4}),
        {"draft_head": "int8"},
    ],
    ids=["tier", "precision", "device", "setting", "rounded head"],
)
def test_a_badge_shows_only_where_tier_precision_device_and_settings_match(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    save(certificate(*ALL), tmp_path)
    badge = badge_of(measured("0badcafe", **changes), tmp_path)
    assert badge.startswith("greedy-exact: declared, proved only ")
    assert "compiled passes in float32 on cpu" in badge


def test_a_proof_with_a_rounded_head_is_for_runs_with_one(tmp_path: Path) -> None:
    save(replace(certificate(*ALL), tiers={"float32": tier_words("compiled", "int8")}), tmp_path)
    assert badge_of(measured("0badcafe", draft_head="int8"), tmp_path) == "greedy-exact: proved"
    assert badge_of(measured("0badcafe"), tmp_path) == (
        "greedy-exact: declared, proved only for other settings, "
        "or with compiled (draft head in int8) passes in float32 on cpu"
    )


def test_code_that_decodes_as_the_proved_code_says_so(tmp_path: Path) -> None:
    save(certificate(*ALL).carried(LATER), tmp_path)
    assert badge_of(measured("0badcafe"), tmp_path) == "greedy-exact: proved"
    badge = badge_of(measured("deadbeef"), tmp_path)
    assert badge == "greedy-exact: proved at c8bcf002, with unchanged behaviour"
    assert is_proved_here(badge)


def test_a_shipped_certificate_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.prove.certificates, "SHIPPED", tmp_path / "shipped")
    save(certificate(*ALL), tmp_path / "shipped")
    shipped = badge_of(measured("0badcafe"), tmp_path)
    assert shipped == "greedy-exact: proved as shipped, not here"
    assert not is_proved_here(shipped)
    save(certificate(*ALL), tmp_path)
    assert badge_of(measured("0badcafe"), tmp_path) == "greedy-exact: proved"


def test_a_setting_called_target_is_a_setting(tmp_path: Path) -> None:
    """Draft & Verify has one; a record keeps it in the place of the constructor's path."""
    save(replace(certificate(*ALL), params={"length": 3, "target": 0.9}), tmp_path)
    run = measured("0badcafe")
    assert "proved only" in badge_of(run, tmp_path)
    method = {**run.identity["method"], "target": 0.9}
    assert badge_of(replace(run, identity={"method": method}), tmp_path) == "greedy-exact: proved"


def test_a_failed_certificate_is_shown(tmp_path: Path) -> None:
    save(certificate(RULES, replace(GREEDY, status=Status.FAILED)), tmp_path)
    assert "REFUTED" in badge_of(measured("0badcafe"), tmp_path)


def test_a_place_is_covered_by_device_tier_and_precision() -> None:
    made = certificate(*ALL)
    assert made.covers(Place("cpu", "static", "bfloat16"))
    assert not made.covers(Place("cpu", "static", "float32"))
