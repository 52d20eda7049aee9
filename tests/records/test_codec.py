"""Old records stay readable: a frozen file of every schema version, and one step from each to the next."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.metrics.summary import summarise
from bench.records.codec import FIRST_VERSION, decode_sample, encode_sample, from_line, to_line, upgrade
from bench.records.model import SCHEMA_VERSION, Arm, Verdict
from bench.records.rounds import Shared
from bench.records.store import load_run, load_samples
from bench.show.table import run_table

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("version", range(FIRST_VERSION, SCHEMA_VERSION + 1))
def test_a_frozen_run_of_every_version_is_read(version: int) -> None:
    folder = DATA / f"run_v{version}"
    run, samples = load_run(folder), load_samples(folder)
    assert run.schema_version == SCHEMA_VERSION
    assert run.attempts[0]["device"]
    lines = (folder / "samples.jsonl").read_text().splitlines()
    assert len({sample.key for sample in samples}) == len(samples) == len(lines)
    assert "layerskip on jsonl" in run_table(summarise(run, samples))


def test_the_frozen_run_of_version_1_means_what_it_meant() -> None:
    frozen = json.loads((DATA / "run_v1" / "meaning.json").read_text())
    samples = {":".join(map(str, sample.key)): sample for sample in load_samples(DATA / "run_v1")}
    assert samples.keys() == frozen.keys()
    for name, expected in frozen.items():
        sample = samples[name]
        assert (list(sample.ids), len(sample.rounds), sample.error) == (
            expected["ids"],
            expected["rounds"],
            expected["error"],
        )
        assert sum(step.accepted for step in sample.rounds) == expected["accepted"]
        assert (sample.timing is None) == (expected["decode_s"] is None)
        assert sample.timing is None or sample.timing.decode_s == expected["decode_s"]
        if sample.arm is Arm.METHOD and sample.error is None:
            assert sample.equivalence is not None
            assert sample.equivalence.verdict is Verdict(expected["verdict"])


def test_the_first_lines_named_no_version(tmp_path: Path) -> None:
    line = json.loads((DATA / "run_v1" / "samples.jsonl").read_text().splitlines()[0])
    assert line.pop("schema_version") == 1
    assert encode_sample(decode_sample(line))["schema_version"] == SCHEMA_VERSION


def test_a_record_goes_through_one_step_per_version() -> None:
    steps = {
        1: lambda record: record | {"seconds": record["ms"] / 1000},
        3: lambda record: {key: value for key, value in record.items() if key != "ms"},
    }
    assert upgrade({"ms": 500}, steps, newest=4) == {"seconds": 0.5, "schema_version": 4}
    assert upgrade({"ms": 5, "schema_version": 3}, steps, newest=4) == {"schema_version": 4}
    assert upgrade({"x": 1, "schema_version": 4}, steps, newest=4) == {"x": 1, "schema_version": 4}


@pytest.mark.parametrize("version", [0, 5, -1, None, "1"])
def test_a_version_from_nowhere_is_refused(version: Any) -> None:
    with pytest.raises(UserError, match=f"has schema version {version}, this code knows 1 to 4"):
        upgrade({"schema_version": version}, {}, newest=4)


def test_a_column_of_rounds_that_came_later_holds_its_default() -> None:
    line = json.loads((DATA / "run_v1" / "samples.jsonl").read_text().splitlines()[0])
    del line["rounds"]["exit_layer"]
    assert all(step.exit_layer is None for step in decode_sample(line).rounds)


def test_a_column_of_rounds_that_is_not_known_is_refused_and_not_dropped() -> None:
    line = json.loads((DATA / "run_v1" / "samples.jsonl").read_text().splitlines()[0])
    line["rounds"]["heat"] = line["rounds"]["drafted"]
    with pytest.raises(KeyError, match="heat"):
        decode_sample(line)


def test_what_lines_repeat_is_held_once_and_is_what_each_line_says() -> None:
    samples = load_samples(DATA / "run_v2")
    lines = [to_line(replace(sample, session=session))[:-1] for session in range(3) for sample in samples]
    shared = Shared()
    read = [from_line(line, shared) for line in lines]
    assert read == [from_line(line) for line in lines]
    assert [sample.session for sample in read] == [0] * len(samples) + [1] * len(samples) + [2] * len(samples)
    for first, second in zip(read, read[len(samples) :], strict=False):
        assert first.ids is second.ids
        assert first.rounds is second.rounds


@pytest.mark.parametrize("name", ["ids", "rounds"])
def test_an_answer_that_quotes_a_record_is_no_part_of_one(name: str) -> None:
    sample = next(sample for sample in load_samples(DATA / "run_v2") if sample.error is None)
    record = json.dumps(encode_sample(sample)[name], separators=(",", ":"))
    quoting = replace(sample, text=f'{{"{name}":{record},"text":"\\"}}')
    shared = Shared()
    for expected in (sample, quoting, replace(quoting, ids=(*sample.ids[:-1], sample.ids[-1] + 1))):
        assert from_line(to_line(expected)[:-1], shared) == expected
