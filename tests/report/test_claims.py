"""Published claims: every file loads, and a figure stands beside ours only where all else is equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import conf
from bench.errors import UserError
from bench.report.board import Section, sections
from bench.report.claims import Claim, claim_table, load_papers, match_claim
from bench.report.entries import entries
from tests.report.boards import Plan, stored

ELSEWHERE = {"eagle", "eagle2", "hydra", "medusa_2", "rest", "samd_eagle2"}
ELSEWHERE |= {"speculative_sampling_68m"}  # methods that are claimed and not implemented here

CLAIM = Claim(
    claim="Kangaroo",
    method="kangaroo",
    metric="speedup",
    figures={"qa": 1.43, "overall": 1.5},
    model="vicuna_7b",
    device="A100",
    setting="",
    source="table 1",
    tag="S",
    questions="spec_bench",
)


@pytest.fixture(scope="module")
def measured() -> list[Section]:
    plan = Plan("kangaroo", questions=80, limit=None, repeats=2)
    return sections(entries([stored(plan)]))


def test_every_paper_loads_and_explains_its_tags() -> None:
    papers = load_papers()
    assert len(papers) >= 10
    assert all(paper.claims and paper.tags for paper in papers)
    assert "M" not in {tag for paper in papers for tag in paper.tags}  # figures from memory are not quoted


def test_every_device_that_is_known_can_match_a_drivers_name() -> None:
    drivers = ["NVIDIA A100-SXM4-80GB", "NVIDIA A800-SXM4-80GB", "Tesla V100-SXM2-16GB", "NVIDIA RTX A6000"]
    drivers += ["NVIDIA GeForce RTX 3090", "NVIDIA H100 80GB HBM3", "AMD Instinct MI300X"]
    measured = {name: _measured_on(name) for name in drivers}
    claims = [claim for paper in load_papers() for claim in paper.claims if claim.device != "unknown"]
    for device in sorted({claim.device for claim in claims}):
        claim = replace(CLAIM, device=device)
        seen = [name for name in drivers if not match_claim(claim, measured[name]).reason]
        assert len(seen) == 1, (device, seen)


def _measured_on(device: str) -> list[Section]:
    plan = Plan("kangaroo", questions=80, limit=None, repeats=2, subtasks=("qa",), device=device)
    return sections(entries([stored(plan)]))


def test_a_device_with_a_remark_is_refused() -> None:
    """No driver's name would ever hold it."""
    for device in ("V100 (by secondary sources)", "4x RTX A6000"):
        with pytest.raises(ValueError, match="put remarks into setting"):
            replace(CLAIM, device=device)


def test_claims_name_methods_as_their_runs_are_named() -> None:
    """A variant such as conf/method/medusa/chain.yaml is run, and called, ``medusa-chain``."""
    folder = Path(conf.__file__).parent / "method"
    known = {
        str(path.relative_to(folder).with_suffix("")).replace("/", "-") for path in folder.rglob("*.yaml")
    }
    claimed = {claim.method for paper in load_papers() for claim in paper.claims}
    assert claimed - known == ELSEWHERE


def test_a_claim_in_our_setting_gets_our_end_to_end_figures(measured: list[Section]) -> None:
    matched = match_claim(CLAIM, measured)
    assert matched.reason == ""
    assert list(matched.measured) == ["qa", "overall"]
    interval = measured[0].lossless[0].entry.summary.speedup.end_to_end
    assert interval is not None
    assert matched.measured["overall"] == interval.estimate


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "medusa"}, "not measured"),
        ({"model": "vicuna_13b"}, "measured on vicuna_7b, claimed for vicuna_13b"),
        ({"sampling": "temperature 1"}, "measured with greedy, claimed for temperature 1"),
        ({"questions": "MT-bench"}, "claimed on MT-bench"),
        ({"device": "H100"}, "claimed for H100"),
        ({"device": "A10"}, "measured on NVIDIA A100-SXM4-80GB, claimed for A10"),
        ({"device": "unknown"}, "claimed for an unknown device"),
        ({"dtype": "float16"}, "measured in bfloat16, claimed for float16"),
        ({"max_new_tokens": 1024}, "measured with up to 128 tokens, claimed for up to 1024"),
        ({"params": {"threshold": 0.6}}, "measured with threshold None, claimed for 0.6"),
    ],
)
def test_any_other_setting_is_not_comparable(
    measured: list[Section], change: dict[str, Any], reason: str
) -> None:
    matched = match_claim(replace(CLAIM, **change), measured)
    assert reason in matched.reason
    assert not matched.measured


def test_acceptance_lengths_carry_over_between_devices(measured: list[Section]) -> None:
    claim = replace(CLAIM, metric="acceptance_length", device="H100")
    assert set(match_claim(claim, measured).measured) == {"qa", "overall"}


def test_a_part_of_the_questions_is_not_comparable() -> None:
    part = sections(entries([stored(Plan("kangaroo"))]))
    assert "measured on 72 of 480" in match_claim(CLAIM, part).reason


def test_prompts_with_a_system_message_of_the_users_own_are_not_comparable() -> None:
    labels = {"chat": 'chat.system="Be brief."'}
    plan = Plan("kangaroo", questions=80, limit=None, repeats=2, labels=labels)
    reason = match_claim(CLAIM, sections(entries([stored(plan)]))).reason
    assert reason == 'not comparable: measured on prompts with chat.system="Be brief."'


def test_ranges_and_single_figures_are_given_in_words() -> None:
    table = {paper.reference: claim_table(paper, []) for paper in load_papers()}
    assert table["arXiv 2404.12022"].rows[0][2:4] == ("1.90x to 3.00x", "not measured")
    assert "mt_bench 1.68x, " in table["arXiv 2404.18911"].rows[6][2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims: []", "title"),
        ("- a", "no mapping"),
        ("title: a\nreference: b\ntags: {}\nclaims: [{tag: S}]", "figures"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(UserError, match=r"odd\.yaml is no list of claims") as error:
        load_papers(tmp_path)
    assert message in error.value.what
