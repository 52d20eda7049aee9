"""Compares what two versions of the code decoded: ``python tests/same_records.py BEFORE AFTER``.

Both are results folders of the same commands. Runs are matched by method, task, model and settings; their
samples by prompt, turn, repeat and arm. Ids, rounds and counts must be the same; the word for why a draft
ended is not compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.model import Sample
from bench.records.store import load_run, load_samples


def runs_of(results: Path) -> dict[str, Path]:
    """Folders of the runs by names and settings; where the method's code stands is left out."""
    folders = {}
    for path in sorted((results / "runs").glob("*/run.json")):
        run = load_run(path.parent)
        names, identity = [run.method, run.task, run.model], run.identity
        key = [*names, without_places(identity["method"]), identity["sampling"], identity["max_new_tokens"]]
        folders[json.dumps(key, sort_keys=True)] = path.parent
    return folders


def without_places(settings: Any) -> Any:
    """The settings of a method without the dotted paths of constructors, also in what it is built of."""
    if not isinstance(settings, Mapping):
        return settings
    kept = {key: value for key, value in settings.items() if key not in ("target", "_target_")}
    return {key: without_places(value) for key, value in kept.items()}


def decoded(sample: Sample) -> tuple[Any, ...]:
    """What a sample decoded, without times."""
    rounds = [
        (each.drafted, each.accepted, each.emitted, each.depth, each.exit_layer) for each in sample.rounds
    ]
    return sample.ids, rounds, dict(sample.counts), sample.kv_entries, sample.error


def differences(before: Path, after: Path) -> tuple[int, list[str]]:
    """Samples that were compared, and those that differ or that only one side has."""
    first, second = (_by_key(folder) for folder in (before, after))
    different = [key for key in {*first, *second} if first.get(key) != second.get(key)]
    return len(first), sorted(map(str, different))


def _by_key(folder: Path) -> Mapping[Any, tuple[Any, ...]]:
    return {sample.key: decoded(sample) for sample in load_samples(folder)}


def main(before: Path, after: Path) -> int:
    """Print one line per run; 1 if any differs or is missing."""
    old, new = runs_of(before), runs_of(after)
    missing = sorted({*old} ^ {*new})
    failed = bool(missing) or not old
    for name in sorted({*old} & {*new}):
        count, different = differences(old[name], new[name])
        failed |= bool(different) or not count
        state = "same" if not different else f"{len(different)} DIFFER: {'; '.join(different[:3])}"
        sys.stdout.write(f"{new[name].name:<60} {count:>4} samples  {state}\n")
    sys.stdout.writelines(f"only on one side: {name}\n" for name in missing)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
