"""Where runs live on disk: one folder per run, samples appended line by line, nothing lost to a crash.

Layout: ``<results>/runs/<run_id>/run.json`` (settings, and the environment of every start) and
``samples.jsonl`` (one decoded turn per line). Opening a run again resumes it. A run never mixes settings,
machines or schema versions, and one process at a time writes to it. See `bench.records.codec` for the lines.

The settings name the folder. The machine does not, so that a run is found wherever it was measured; but a
start on another machine is refused, because one run holds the timings of one machine.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.errors import UserError
from bench.records.codec import RUN_STEPS, SampleFile, read_samples, to_line, upgrade
from bench.records.damaged import set_aside
from bench.records.field_types import ATTEMPT_TYPES, OBJECT, RUN_TYPES, check_types, reason_of
from bench.records.files import acquire, is_same_file, release, renew, write_text
from bench.records.model import Key, Run, Sample
from bench.records.packing import PACKED, PLAIN, unpack
from bench.records.resuming import check_resumable

log = logging.getLogger(__name__)

_NO_SAMPLES = SampleFile({}, 0, {})


class RunStore:
    """One run opened for writing. Use it as a context manager; `open` is its constructor.

    Attributes:
        run: The run with every attempt's environment, this start's last.
        folder: Where its files are.
        good: The samples without an error, by key; failed ones are measured again.
    """

    def __init__(self, run: Run, folder: Path, good: dict[Key, Sample], lock: int, samples: int) -> None:
        self.run = run
        self.folder = folder
        self.good = good
        self._lock = lock
        self._samples = samples

    @classmethod
    def open(cls, root: Path, run: Run, source: str | None = None) -> Self:
        """Create the run's folder under ``root/runs`` or resume it; records this start as a new attempt.

        Damaged samples are set aside, so that they are measured again.

        Args:
            root: The results root.
            run: The run, with this start's environment as its only attempt; its ``device`` names the
                hardware.
            source: Hash of the code that decodes, see `bench.prove.source`; other code's samples are refused.

        Raises:
            UserError: If another process writes to the run, if the stored run has another identity, another
            device or an unknown schema version, if run.json is corrupt, or if a file cannot be written.
            ValueError: If `run` does not hold exactly one attempt that names its device.
        """
        if len(run.attempts) != 1 or not isinstance(run.attempts[0].get("device"), str):
            raise ValueError(f"need this start's environment with a 'device', got {run.attempts}")
        folder = root / "runs" / run.run_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = acquire(folder)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            return cls._resume(folder, run, lock, source)
        except BaseException as error:
            release(lock)
            if isinstance(error, OSError):
                raise _unwritable(folder, error) from error
            raise

    @classmethod
    def _resume(cls, folder: Path, run: Run, lock: int, source: str | None) -> Self:
        if (folder / PACKED).exists():
            unpack(folder)
        path = folder / PLAIN
        stored = load_run(folder) if (folder / "run.json").exists() else None
        file = read_samples(path) if path.exists() else _NO_SAMPLES
        if stored:
            check_resumable(stored, run, file.samples, folder, source)
            run = replace(run, attempts=(*stored.attempts, *run.attempts))
        elif file.samples:
            raise UserError(f"{folder} holds samples but no run.json", "move the folder away and start again")
        if file.problems:
            set_aside(path, file.problems)
        _write_run(folder, run)
        samples = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(samples, file.size)
        good = {key: sample for key, sample in file.samples.items() if sample.error is None}
        return cls(run, folder, good, lock, samples)

    @property
    def attempt(self) -> int:
        """Number of this start, from 0."""
        return len(self.run.attempts) - 1

    def append(self, sample: Sample) -> Sample:
        """Write one sample, stamped with this attempt, and force it to disk; returns it as stored.

        Raises:
            UserError: If it cannot be written; everything before it stays intact.
            ValueError: If a good sample with this key is stored already or a number is not finite.
        """
        if sample.key in self.good:
            raise ValueError(f"sample {sample.key} is stored already, a second one is refused")
        sample = replace(sample, attempt=self.attempt)
        self._write(to_line(sample))
        if sample.error is None:
            self.good[sample.key] = sample
        return sample

    def note(self, name: str, facts: Mapping[str, Any] | str) -> None:
        """Add facts to this start's environment, such as what was probed.

        Raises:
            UserError: If they cannot be written.
        """
        *earlier, last = self.run.attempts
        self.run = replace(self.run, attempts=(*earlier, {**last, name: facts}))
        try:
            _write_run(self.folder, self.run)
        except OSError as error:
            raise _unwritable(self.folder / "run.json", error) from error

    def require_in_place(self) -> None:
        """Check that what is written still lies where it will be looked for.

        Raises:
            UserError: If the run's files were deleted, moved or replaced since the start.
        """
        held = {PLAIN: self._samples, ".lock": self._lock}
        for name, file in held.items():
            if not is_same_file(file, self.folder / name):
                raise UserError(
                    f"{self.folder / name} was deleted, moved or replaced while this run was measured",
                    "leave a run's folder alone until the run has ended; the same command measures the rest",
                )

    def _write(self, line: bytes) -> None:
        self.require_in_place()
        intact_bytes = os.fstat(self._samples).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._samples, rest) :]
            os.fsync(self._samples)
        except BaseException as error:  # an interrupt in mid-line tears it just as a full disk does
            _truncate(self._samples, intact_bytes)
            if isinstance(error, OSError):
                raise _unwritable(self.folder / PLAIN, error) from error
            raise
        renew(self._lock)

    def close(self) -> None:
        """Let another process write to the run."""
        os.close(self._samples)
        release(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_run(folder: Path) -> Run:
    """The run stored in a run folder.

    Raises:
        UserError: If run.json is missing, is not a run, or has a schema version that this code does not know.
    """
    path = folder / "run.json"
    try:
        stored = upgrade(_object(path.read_text(encoding="utf-8")), RUN_STEPS)
        check_types(stored, RUN_TYPES, "")
        for number, attempt in enumerate(attempts := tuple(stored["attempts"])):
            check_types({"attempt": attempt}, {"attempt": OBJECT}, "")
            check_types(attempt, ATTEMPT_TYPES, f"attempts.{number}.")
        return Run(**{**stored, "attempts": attempts})
    except UserError as error:
        raise UserError(f"{path} {error.what}", error.fix) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no run: {reason_of(error)}",
            "restore the file, give the folder of a run, or move this one away",
        ) from error


def _object(text: str) -> dict[str, Any]:
    record = json.loads(text)
    if not isinstance(record, dict):
        raise TypeError("it is no JSON object")
    return record


def load_samples(folder: Path) -> list[Sample]:
    """The samples of a run folder, one per key: the first good one, or else the last failed one.

    A torn last line, left by a crash, is skipped; the file is not touched. A run without samples gives an
    empty list.

    Raises:
        UserError: If a line is damaged or other code wrote it, with file and line number.
    """
    paths = (folder / PLAIN, folder / PACKED)
    path = next((path for path in paths if path.exists()), None)
    file = read_samples(path) if path else _NO_SAMPLES
    if file.problems:
        raise UserError(
            next(iter(file.problems.values())),
            "restore the file, or start the run again: it sets such lines aside and measures them anew",
        )
    return list(file.samples.values())


def _write_run(folder: Path, run: Run) -> None:
    write_text(folder / "run.json", json.dumps(asdict(run), indent=1, allow_nan=False))


def _truncate(file: int, size: int) -> None:
    try:
        os.ftruncate(file, size)
    except OSError:  # the next start drops the torn line
        log.warning("could not remove a torn line; it is dropped at the next start")


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written: {error.strerror}",
        "free space or mend its permissions and run the same command again; what is stored is intact",
    )
