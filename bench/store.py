"""Where runs live on disk: one folder per run, samples appended line by line, nothing lost to a crash.

Layout: ``<results>/runs/<run_id>/run.json`` (who, what, every attempt's environment) and ``samples.jsonl``
(one finished turn per line). A run is resumed by opening it again; it never mixes settings, devices or schema
versions, and one process at a time writes to it. Rounds are stored as columns, so a file stays small and
loads exactly.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.codec import decode_sample, encode_sample
from bench.errors import UserError
from bench.frames import export_parquet, rounds_frame, to_frame
from bench.identity import check_machine, check_settings, run_id
from bench.lock import acquire, release, renew
from bench.records import Run, Sample
from bench.upgrade import RUN_STEPS, upgrade

__all__ = [
    "Key",
    "RunStore",
    "export_parquet",
    "load_run",
    "load_samples",
    "rounds_frame",
    "run_id",
    "to_frame",
]

log = logging.getLogger(__name__)

Key = tuple[str, int, int, str]
"""`Sample.key`: prompt id, turn, repeat, arm."""


class RunStore:
    """One run opened for writing. Use it as a context manager; `open` is its constructor.

    Attributes:
        run: The run with every attempt's environment, this start's last.
        folder: Where its files are.
        done: Keys of the samples that need no more work; failed ones are not among them.
    """

    def __init__(self, run: Run, folder: Path, done: set[Key], lock: int, samples: int) -> None:
        self.run = run
        self.folder = folder
        self.done = done
        self._lock = lock
        self._samples = samples

    @classmethod
    def open(cls, root: Path, run: Run) -> Self:
        """Create the run's folder under ``root/runs`` or resume it; records this start as a new attempt.

        Args:
            root: The results root. run: The run, with this start's environment as its only attempt;
            ``device`` names the hardware in it.

        Raises:
            UserError: If another process writes to the run, if the stored run has another identity, another
            device
                or an unknown schema version, if a file is corrupt or cannot be written.
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
            return cls._resume(folder, run, lock)
        except BaseException as error:
            release(lock)
            if isinstance(error, OSError):
                raise _unwritable(folder, error) from error
            raise

    @classmethod
    def _resume(cls, folder: Path, run: Run, lock: int) -> Self:
        path = folder / "samples.jsonl"
        stored = load_run(folder) if (folder / "run.json").exists() else None
        found, intact_bytes = _read_samples(path) if path.exists() else ({}, 0)
        if stored:
            _check_resumable(stored, run, found, folder)
            run = replace(run, attempts=(*stored.attempts, *run.attempts))
        elif found:
            raise UserError(f"{folder} holds samples but no run.json", "move the folder away and start again")
        _write_run(folder, run)
        samples = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(samples, intact_bytes)
        return cls(run, folder, {key for key, one in found.items() if one.error is None}, lock, samples)

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
        if sample.key in self.done:
            raise ValueError(f"sample {sample.key} is stored already, a second one is refused")
        sample = replace(sample, attempt=self.attempt)
        line = json.dumps(encode_sample(sample), separators=(",", ":"), allow_nan=False)
        self._write(f"{line}\n".encode())
        if sample.error is None:
            self.done.add(sample.key)
        return sample

    def note(self, name: str, facts: Mapping[str, Any]) -> None:
        """Add facts to this start's environment, such as what was probed; UserError if they cannot be."""
        *earlier, last = self.run.attempts
        self.run = replace(self.run, attempts=(*earlier, {**last, name: facts}))
        try:
            _write_run(self.folder, self.run)
        except OSError as error:
            raise _unwritable(self.folder / "run.json", error) from error

    def _write(self, line: bytes) -> None:
        intact_bytes = os.fstat(self._samples).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._samples, rest) :]
            os.fsync(self._samples)
        except BaseException as error:  # an interrupt in mid-line tears it just as a full disk does
            _truncate(self._samples, intact_bytes)
            if isinstance(error, OSError):
                raise _unwritable(self.folder / "samples.jsonl", error) from error
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
        stored = upgrade(json.loads(path.read_text(encoding="utf-8")), RUN_STEPS)
        return Run(**{**stored, "attempts": tuple(stored["attempts"])})
    except UserError as error:
        raise UserError(f"{path} {error.what}", error.fix) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no run: {error!r}",
            "restore the file, give the folder of a run, or move this one away",
        ) from error


def load_samples(folder: Path) -> list[Sample]:
    """The samples of a run folder, one per key: the first good one, or else the last failed one.

    A torn last line, left by a crash, is skipped; the file is not touched. A run without samples gives an
    empty list.

    Raises:
        UserError: If a line is corrupt, with file and line number.
    """
    path = folder / "samples.jsonl"
    return list(_read_samples(path)[0].values()) if path.exists() else []


def _read_samples(path: Path) -> tuple[dict[Key, Sample], int]:
    """Samples by key and the size in bytes of the intact part of the file."""
    content = path.read_bytes()
    intact = content[: content.rfind(b"\n") + 1]
    if len(intact) < len(content):
        log.warning("%s ends in a torn line, which is dropped: that sample is measured again", path)
    found: dict[Key, Sample] = {}
    for number, line in enumerate(intact.splitlines(), start=1):
        sample = _parse(line, path, number)
        if sample.key in found and found[sample.key].error is None:
            log.warning("%s, line %d: sample %s is there twice, the first counts", path, number, sample.key)
        else:
            found[sample.key] = sample
    return found, len(intact)


def _parse(line: bytes, path: Path, number: int) -> Sample:
    try:
        return decode_sample(json.loads(line))
    except UserError as error:
        raise UserError(f"{path}, line {number} {error.what}", error.fix) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}, line {number} is no sample: {error!r}",
            "restore the file, or delete that line to measure it again",
        ) from error


def _check_resumable(stored: Run, run: Run, found: Mapping[Key, Sample], folder: Path) -> None:
    check_settings(stored.identity, run.identity, folder)
    measured = {one.attempt for one in found.values() if one.error is None}  # a failure holds no timing
    check_machine([stored.attempts[number] for number in sorted(measured)], run.attempts[0], folder)


def _write_run(folder: Path, run: Run) -> None:
    write_atomically(folder / "run.json", json.dumps(asdict(run), indent=1, allow_nan=False))


def write_atomically(path: Path, text: str) -> None:
    """Write a ``.json`` file, whole or not at all, and force it to disk."""
    draft = path.with_suffix(".json.tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


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
