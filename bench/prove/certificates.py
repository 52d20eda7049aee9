"""Certificates: what was proved of a method's output, for which source, and what a table may say of it.

A certificate is a JSON file under ``results/certificates``, named by the method and the hash of its source.
The source is the method's own module and every module of ours that computes its output: whatever it imports,
at any remove, from ``methods``, from ``bench.runtime`` and from its own package, with the C files beside
them. One changed line in any of them makes another hash, and tables fall back to the method's word. Settings
do not enter the hash; a setting that makes a method lossy changes what it declares.

This module knows nothing of torch.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from bench.records.model import Run

FOLDER = "certificates"
SHIPPED = Path(__file__).parents[2] / "results" / "published"
"""Where the repository has its own certificates; a package installed without them has none."""
HASH_LENGTH = 8
SHARED_SOURCE = ("methods", "bench.runtime")
SCHEMA_VERSION = 1

GREEDY, SAMPLING, LOSSY = "greedy-exact", "sampling-exact", "lossy"
"""Values of `methods.core.base.Exactness`, which imports torch."""

PROVES = {GREEDY: ("greedy",), SAMPLING: ("greedy", "sampling")}
"""Checks that must have been made and passed for a promise to count as proved."""


class Status(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "not provable here"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one method.

    Args:
        kind: ``greedy`` (fp32, strict), ``greedy half`` or ``sampling``.
        subject: The model, and what else sets this check apart.
        status: How it ended.
        detail: One line: what was seen, or why nothing could be.
        figures: Counts and statistics.
    """

    kind: str
    subject: str
    status: Status
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_telling(self) -> bool:
        """Whether acceptance was put to the test: where every draft is rejected, any rule looks exact."""
        return not self.figures.get("drafted") or bool(self.figures.get("accepted"))


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a proof came to.

    Args:
        method: Name of its yaml file.
        target: Dotted path of its constructor.
        params: Its settings.
        source_hash: See `source_hash`.
        declared: What the method promises, ``greedy`` and ``sampling``.
        checks: In the order they were made.
        controls: By broken variant, the kind of check that caught it; None if none did.
        settings: Size of the proof.
        created: When, ISO 8601.
        versions: Of Python and the packages that compute.
    """

    method: str
    target: str
    params: Mapping[str, Any]
    source_hash: str
    declared: Mapping[str, str]
    checks: tuple[Check, ...]
    controls: Mapping[str, str | None]
    settings: Mapping[str, Any]
    created: str
    versions: Mapping[str, Any]
    schema_version: int = SCHEMA_VERSION

    def proves(self, promise: str) -> bool:
        """Whether checks bear this promise out: made, telling, passed; none failed, no control escaped."""
        if promise not in PROVES or not self.are_controls_caught:
            return False
        passed = {one.kind for one in self.checks if one.status is Status.PASSED and one.is_telling}
        return not self.failures and passed.issuperset(PROVES[promise])

    @property
    def failures(self) -> tuple[Check, ...]:
        """Checks that failed."""
        return tuple(one for one in self.checks if one.status is Status.FAILED)

    @property
    def are_controls_caught(self) -> bool:
        """Whether the checks told every broken variant from an exact method."""
        return bool(self.controls) and all(self.controls.values())

    @property
    def verdict(self) -> str:
        """``FAILED``, or for greedy and sampled output ``proved``, ``named lossy``, ``not provable here``."""
        if self.failures:
            return "FAILED"
        states = [f"{name} {self._state(promise)}" for name, promise in self.declared.items()]
        alike = {state.partition(" ")[2] for state in states}
        return ", ".join(states) if len(alike) > 1 else alike.pop() if alike else Status.SKIPPED.value

    def _state(self, promise: str) -> str:
        if promise == LOSSY:
            return "named lossy"
        return "proved" if self.proves(promise) else Status.SKIPPED.value


def save(certificate: Certificate, results: Path) -> Path:
    """Write a certificate under `results`; the file appears whole or not at all."""
    path = _path(results, certificate.method, certificate.source_hash)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(certificate), indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def load(results: Path, method: str, source: str) -> Certificate | None:
    """The certificate of a method in this very version, or None."""
    path = _path(results, method, source)
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["schema_version"] != SCHEMA_VERSION or found["source_hash"] != source:
        return None
    found["checks"] = tuple(Check(**{**one, "status": Status(one["status"])}) for one in found["checks"])
    return Certificate(**found)


def badge(results: Path, method: str, source: str | None, promise: str) -> str:
    """What a table may say of a method's output.

    A proof on another machine is evidence, not proof for this one: a shipped certificate is told apart.

    Args:
        results: Folder that holds the certificates made here.
        method: Name of its yaml file.
        source: Hash of the source that was measured; None where the record does not tell.
        promise: What the method declared under the sampler it was measured with.
    """
    if promise not in PROVES:
        return promise
    own = load(results, method, source) if source else None
    certificate = load(SHIPPED, method, source) if source and own is None else own
    if certificate is None:
        return f"{promise}: declared, not proved"
    if certificate.failures:
        return f"{promise}: declared, REFUTED by its certificate"
    if not certificate.proves(promise):
        return f"{promise}: declared, not proved"
    return f"{promise}: proved" if own else f"{promise}: proved as shipped, not here"


def badge_of(run: Run, results: Path) -> str:
    """The badge of a measured run; a run whose attempts had different sources has no proof."""
    promise = str(run.labels.get("exactness", "exactness not stated"))
    sources = {attempt.get("source") for attempt in run.attempts}
    return badge(results, run.method, sources.pop() if len(sources) == 1 else None, promise)


def source_hash(target: str) -> str:
    """Hash over everything that computes a method's output; see the module's docstring.

    Args:
        target: Dotted path of the constructor, ``package.module.Class``.

    Raises:
        ValueError: If no module on that path has source.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_closure(_module_of(target)).items()):
        digest.update(name.encode() + b"\0" + path.read_bytes())
        for beside in _c_sources(path):
            digest.update(beside.name.encode() + b"\0" + beside.read_bytes())
    return digest.hexdigest()[:HASH_LENGTH]


def _path(results: Path, method: str, source: str) -> Path:
    return results / FOLDER / f"{method}-{source}.json"


def _module_of(target: str) -> str:
    """The longest part of a dotted path that is a module."""
    name = target.rpartition(".")[0]
    while name and _source(name) is None:
        name = name.rpartition(".")[0]
    if not name:
        raise ValueError(f"{target} lies in no module with source")
    return name


def _closure(module: str) -> dict[str, Path]:
    """Files of a module and of all that it imports from the packages that count."""
    packages = (*SHARED_SOURCE, module.partition(".")[0])
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in found or path is None:
            continue
        found[name] = path
        waiting += [
            one
            for one in _imports(name, path)
            if any(one == package or one.startswith(f"{package}.") for package in packages)
        ]
    return found


def _c_sources(path: Path) -> list[Path]:
    """C files beside a module: it compiles them, and no import names them."""
    return sorted(path.parent.glob("*.[ch]"))


def _imports(name: str, path: Path) -> Iterator[str]:
    """Dotted names that a module imports; of ``from a import b`` both a and a.b, whichever is a module."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield source
            yield from (f"{source}.{one.name}" for one in node.names)


def _source(name: str) -> Path | None:
    """The file of a module; None for what is no module or has no source."""
    try:
        spec = find_spec(name)
    except (ImportError, AttributeError, ValueError):  # a part of the name is no package
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)
