import json
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.compose.schema import run_id
from bench.errors import UserError
from bench.records.codec import decode_sample, encode_sample
from bench.records.damaged import DAMAGED_FILE
from bench.records.frames import rounds_frame, to_frame
from bench.records.model import (
    SCHEMA_VERSION,
    Arm,
    Equivalence,
    Round,
    Run,
    Sample,
    Timing,
    Verdict,
)
from bench.records.rounds import Rounds
from bench.records.store import RunStore, load_run, load_samples

IDENTITY = {"method": {"exit_layer": 2}, "seed": 0}
RUN = Run(
    run_id=run_id("kangaroo", "qa", "tiny", IDENTITY),
    method="kangaroo",
    task="qa",
    model="tiny",
    identity=IDENTITY,
    config={"seed": 0},
    attempts=({"device": "cpu A"},),
    labels={"exactness": "greedy-exact"},
)


def good(prompt: str = "q1", repeat: int = 0, arm: Arm = Arm.METHOD) -> Sample:
    return Sample(
        prompt,
        "qa",
        0,
        repeat,
        arm,
        1,
        prompt_tokens=12,
        prompt_hash="ab12",
        ids=(5, 6, 7, 8),
        text="Grüße\u2028\r\n\u0000",
        rounds=Rounds.of((Round(4, 1, 2, 3, "confidence", 2), Round(2, 1, 1, 2, "length"))),
        timing=Timing(0.1 + 0.2, 1 / 3, {"draft": 0.01}, 0.5),
        equivalence=Equivalence(Verdict.TIE_EXPLAINED, 3, 0.015625, 0.25, 1),
        peak_memory_bytes=2**40,
    )


def failed(prompt: str = "q1", error: str = "out of memory") -> Sample:
    return Sample(prompt, "qa", 0, 0, Arm.METHOD, 0, error=error)


def lines(folder: Path) -> list[bytes]:
    return (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "sample", [good(), failed(), replace(good(), equivalence=None, rounds=Rounds.of(), ids=(1,))]
)
def test_a_sample_survives_json_exactly(sample: Sample) -> None:
    assert decode_sample(json.loads(json.dumps(encode_sample(sample)))) == sample


def test_every_record_names_its_schema_version(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    assert json.loads(lines(store.folder)[0])["schema_version"] == SCHEMA_VERSION
    assert json.loads((store.folder / "run.json").read_text())["schema_version"] == SCHEMA_VERSION


def test_a_sample_of_a_later_schema_is_refused_by_file_and_line(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    path = store.folder / "samples.jsonl"
    path.write_text(json.dumps(encode_sample(good()) | {"schema_version": 99}) + "\n")
    with pytest.raises(UserError, match=r"samples\.jsonl, line 1 has schema version 99, this code knows 1"):
        load_samples(store.folder)


def test_rounds_are_stored_as_columns() -> None:
    assert encode_sample(good())["rounds"] == {
        "drafted": [4, 2],
        "accepted": [1, 1],
        "emitted": [2, 1],
        "depth": [3, 2],
        "stop": ["confidence", "length"],
        "exit_layer": [2, None],
    }


def test_a_run_id_depends_on_the_identity_and_not_on_its_order() -> None:
    name = run_id("kangaroo", "qa", "tiny", {"a": 1, "b": (2, 3)})
    assert name == run_id("kangaroo", "qa", "tiny", {"b": [2, 3], "a": 1})
    assert name != run_id("kangaroo", "qa", "tiny", {"a": 1, "b": [2, 4]})
    assert name.startswith("kangaroo-qa-tiny-")
    assert len(name) == len("kangaroo-qa-tiny-") + 8


def test_a_run_id_is_a_plain_folder_name_of_plain_settings() -> None:
    with pytest.raises(UserError, match="meta/llama"):
        run_id("kangaroo", "qa", "meta/llama", {})
    with pytest.raises(ValueError, match="plain JSON"):
        run_id("kangaroo", "qa", "tiny", {"path": Path("x")})


def test_what_is_appended_is_loaded(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        stored = [store.append(good()), store.append(good("q2"))]
    assert store.folder == tmp_path / "runs" / RUN.run_id
    assert load_samples(store.folder) == stored
    assert load_run(store.folder) == RUN


def test_a_run_without_samples_loads_as_none(tmp_path: Path) -> None:
    assert load_samples(tmp_path) == []


def test_resuming_adds_an_attempt_and_knows_what_is_done(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as first:
        first.append(good())
        first.append(failed("q2"))
    with RunStore.open(tmp_path, replace(RUN, attempts=({"device": "cpu A", "pid": 2},))) as second:
        assert second.attempt == 1
        assert second.good.keys() == {good().key}  # the failed one is tried again
        assert second.append(good("q2")).attempt == 1
    assert load_run(second.folder).attempts == ({"device": "cpu A"}, {"device": "cpu A", "pid": 2})
    assert [sample.error for sample in load_samples(second.folder)] == [None, None]


def test_the_last_of_several_failures_is_loaded(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(failed(error="first"))
        store.append(failed(error="second"))
    assert [sample.error for sample in load_samples(store.folder)] == ["second"]


def test_a_second_good_sample_is_refused(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
        with pytest.raises(ValueError, match="stored already"):
            store.append(failed())
    assert len(lines(store.folder)) == 1


def test_a_doubled_line_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    path = store.folder / "samples.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    assert len(load_samples(store.folder)) == 1
    assert "is there twice, the first counts" in caplog.text


@pytest.mark.parametrize("keep", [1, 200, -1], ids=["one byte", "half", "all but the newline"])
def test_a_torn_last_line_is_dropped_and_cut_off_on_resume(tmp_path: Path, keep: int) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
        store.append(good("q2"))
    first, second = lines(store.folder)
    path = store.folder / "samples.jsonl"
    path.write_bytes(first + second[:keep])
    assert [sample.prompt_id for sample in load_samples(store.folder)] == ["q1"]
    assert path.read_bytes() != first  # reading changes nothing
    with RunStore.open(tmp_path, RUN) as resumed:
        assert path.read_bytes() == first
        resumed.append(good("q2"))
    assert [sample.prompt_id for sample in load_samples(store.folder)] == ["q1", "q2"]


@pytest.mark.parametrize(
    "line",
    [b"{]\n", b"\n", b"[]\n", b'{"prompt_id": "q9"}\n', b"\xff\n", b"\0" * 64 + b"\n"],
    ids=["no json", "blank", "a list", "fields missing", "no text", "zeros, as a power cut leaves them"],
)
def test_a_damaged_line_is_named_by_a_reader_and_set_aside_by_a_start(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    path = store.folder / "samples.jsonl"
    intact = path.read_bytes()
    path.write_bytes(line + intact)
    with pytest.raises(UserError, match=r"samples\.jsonl, line 1 is no sample"):
        load_samples(store.folder)
    assert path.read_bytes() == line + intact
    RunStore.open(tmp_path, RUN).close()
    assert path.read_bytes() == intact
    assert (store.folder / DAMAGED_FILE).read_bytes() == line
    assert "line 1 is no sample" in caplog.text
    assert "is measured again" in caplog.text


def test_a_changed_digit_is_found_although_the_line_is_still_a_sample(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    path = store.folder / "samples.jsonl"
    path.write_text(path.read_text().replace('"ids":[5,', '"ids":[4,'))
    with pytest.raises(UserError, match="line 1 is no sample: its checksum is that of another line"):
        load_samples(store.folder)
    with RunStore.open(tmp_path, RUN) as store:
        assert store.good == {}


def test_a_whole_line_of_another_code_is_refused_and_never_touched(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    path = store.folder / "samples.jsonl"
    text = json.dumps(encode_sample(good()) | {"later_field": 1})
    path.write_text(f'{text[:-1]},"crc32":"{zlib.crc32(text.encode()):08x}"}}\n')
    content = path.read_bytes()
    for load in (lambda: RunStore.open(tmp_path, RUN), lambda: load_samples(store.folder)):
        with pytest.raises(UserError, match=r"line 1 is no sample that this code knows.*later_field"):
            load()
    assert path.read_bytes() == content


def test_lines_without_a_checksum_are_read(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    (store.folder / "samples.jsonl").write_text(json.dumps(encode_sample(good())) + "\n")
    assert load_samples(store.folder) == [good()]


def test_counts_that_contradict_each_other_are_corrupt(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    text = json.dumps(encode_sample(good())).replace('"accepted": [1, 1]', '"accepted": [9, 1]')
    (store.folder / "samples.jsonl").write_text(f"{text}\n")
    with pytest.raises(UserError, match="line 1 is no sample"):
        load_samples(store.folder)


def test_another_identity_is_refused_and_named(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN):
        pass
    with pytest.raises(UserError, match="seed is 0, not 1"):
        RunStore.open(tmp_path, replace(RUN, identity=IDENTITY | {"seed": 1}))


def test_another_device_is_refused_once_there_are_samples(tmp_path: Path) -> None:
    other = replace(RUN, attempts=({"device": "gpu B"},))
    with RunStore.open(tmp_path, RUN) as store:
        store.append(failed())
    with RunStore.open(tmp_path, other) as store:  # a failure holds no timing
        store.append(good())
    with pytest.raises(UserError, match=r"device 'gpu B', not 'cpu A'.*timings must not mix"):
        RunStore.open(tmp_path, RUN)
    assert len(load_run(store.folder).attempts) == 2  # the refused start left no trace


@pytest.mark.parametrize("attempts", [(), ({},), ({"device": "a"}, {"device": "a"})])
def test_a_start_brings_one_attempt_that_names_its_device(
    tmp_path: Path, attempts: tuple[dict[str, str], ...]
) -> None:
    with pytest.raises(ValueError, match="environment with a 'device'"):
        RunStore.open(tmp_path, replace(RUN, attempts=attempts))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 99}', "schema version 99, this code knows 1"),
        ('{"schema_version": 1}', "is no run"),
        ('{"run_id": ', "is no run"),
        ("[]", "is no run"),
    ],
    ids=["unknown schema", "fields missing", "torn", "a list"],
)
def test_a_run_file_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    folder = tmp_path / "runs" / RUN.run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(content)
    with pytest.raises(UserError, match=message):
        RunStore.open(tmp_path, RUN)
    assert (folder / "run.json").read_text() == content


def test_samples_without_their_run_are_refused(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
    (store.folder / "run.json").unlink()
    with pytest.raises(UserError, match=r"samples but no run\.json"):
        RunStore.open(tmp_path, RUN)


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = RunStore.open(tmp_path, RUN)
    with pytest.raises(UserError, match=f"process {os.getpid()} on .*, for [0-9]+ s"):
        RunStore.open(tmp_path, RUN)
    first.close()
    RunStore.open(tmp_path, RUN).close()  # free again


def test_a_refused_start_lets_go_of_the_lock(tmp_path: Path) -> None:
    RunStore.open(tmp_path, RUN).close()
    for _ in range(2):
        with pytest.raises(UserError, match="other settings"):
            RunStore.open(tmp_path, replace(RUN, identity={}))
    RunStore.open(tmp_path, RUN).close()


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from bench.records.files import acquire;"
        "acquire(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    folder = tmp_path / "runs" / RUN.run_id
    folder.mkdir(parents=True)
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=root, check=False).returncode == -9
    RunStore.open(tmp_path, RUN).close()


def test_a_full_disk_keeps_everything_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write

    def full(file: int, data: memoryview) -> int:
        if len(data) > 50:
            return real_write(file, data[:50])  # the disk takes a part ...
        raise OSError(28, "No space left on device")

    with RunStore.open(tmp_path, RUN) as store:
        store.append(good())
        with monkeypatch.context() as patch:
            patch.setattr("bench.records.store.os.write", full)
            with pytest.raises(UserError, match=r"samples\.jsonl cannot be written: No space left") as caught:
                store.append(good("q2"))
        assert "free space" in caught.value.fix
        assert len(lines(store.folder)) == 1
        store.append(good("q2"))  # space was made
    assert [sample.prompt_id for sample in load_samples(store.folder)] == ["q1", "q2"]


def test_an_interrupt_in_mid_line_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    with RunStore.open(tmp_path, RUN) as store:
        monkeypatch.setattr("bench.records.store.os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append(good())
        assert lines(store.folder) == []
        assert store.good == {}


def test_a_results_root_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        RunStore.open(tmp_path / "results", RUN)


def test_a_number_that_json_lacks_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        with pytest.raises(ValueError, match="not JSON compliant"):
            store.append(replace(good(), reference_nll=float("nan")))
        assert lines(store.folder) == []


def test_the_frame_has_one_row_per_sample_and_no_zeros_for_failures() -> None:
    frame = to_frame([good(), failed("q2")])
    first, second = frame.iloc[0], frame.iloc[1]
    assert (first["output_tokens"], first["rounds"], first["drafted"], first["accepted"]) == (4, 2, 6, 2)
    assert first["decode_s"] == 1 / 3
    assert first["verdict"] == "tie-explained"
    assert second["error"] == "out of memory"
    assert second[["output_tokens", "decode_s", "draft_s", "margin"]].isna().all()
    assert pd.isna(first["verify_s"])  # a phase that was not timed is not one of zero seconds


def test_frames_have_the_same_columns_with_and_without_samples() -> None:
    assert to_frame([]).dtypes["decode_s"] == to_frame([good()]).dtypes["decode_s"]
    assert list(to_frame([])) == list(to_frame([good()]))
    assert list(rounds_frame([])) == list(rounds_frame([good()]))


def test_the_rounds_frame_has_one_row_per_round() -> None:
    frame = rounds_frame([good(), failed("q2")])
    assert frame["round"].tolist() == [0, 1]
    assert frame["emitted"].tolist() == [2, 1]
    assert frame["exit_layer"].isna().tolist() == [False, True]


def test_facts_noted_in_mid_run_stand_in_this_starts_environment(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, RUN) as store:
        store.note("probe", {"step_s": 0.5})
    with RunStore.open(tmp_path, RUN) as store:
        assert store.run.attempts == ({"device": "cpu A", "probe": {"step_s": 0.5}}, {"device": "cpu A"})
