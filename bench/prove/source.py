"""The hash of what decodes: a certificate is about this code and no other.

The code is the method's module, the rules and loops it uses, and the part of the runtime that runs the
target's passes on one tier: whatever these import, at any remove, from ``methods``, ``bench.runtime`` and the
method's own package, with the C files beside them. Of a method that is a single file outside of a package,
what it imports from its own folder counts too. Training code is left out: imports inside a function named
``trainer`` or ``model_trainer`` are not followed.

The hash reads syntax trees, not text. Comments, docstrings, annotations, layout, the names of local
variables, and the file that a definition stands in do not enter it. Any other change to the code makes
another hash.

This module knows nothing of torch.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path

HASH_LENGTH = 8
SHARED_PACKAGES = ("methods", "bench.runtime")
"""Our packages whose code decodes; a method outside of them brings its own package."""
LOADING = "bench.runtime.loading"
"""Builds the target; it imports every tier, and only the tier of the run is followed."""
TIERS = "bench.runtime.tiers"
TRAINER_FUNCTIONS = ("trainer", "model_trainer")
Specs = dict[str, ModuleSpec | None]
"""What is known of modules by dotted name: most names are looked up many times for one hash."""


def source_hash(target: str, tier: str) -> str:
    """Hash of the code that computes a method's output on a tier; see the module's docstring.

    Args:
        target: Dotted path of the method's constructor, ``package.module.Class``.
        tier: Tier of the target's passes: ``eager``, ``static``, ``compiled`` or ``graph``.

    Raises:
        ValueError: If no module on that path has source.
    """
    modules = decoding_modules(target, tier)
    pieces = {piece for module in modules.values() for piece in module.pieces(modules)}
    return hashlib.sha256("\n".join(sorted(pieces)).encode()).hexdigest()[:HASH_LENGTH]


def decoding_modules(target: str, tier: str) -> dict[str, Module]:
    """Modules that a method decodes with, by dotted name.

    Raises:
        ValueError: If no module on the target's path has source.
    """
    specs: Specs = {}
    start = _module_of(target, specs)
    packages = (*SHARED_PACKAGES, start.partition(".")[0])
    waiting, seen, modules = [start, LOADING], set[str](), dict[str, Module]()
    while waiting:
        name = waiting.pop()
        path = None if name in seen else _source_file(name, specs)
        seen.add(name)
        if path is None:
            continue
        module = modules[name] = _module(name, path, path.read_bytes())
        for item in module.imports:
            is_ours = _is_within(item, packages) or _is_beside(item, start, specs)
            if is_ours and (name != LOADING or _is_used_by(item, tier)):
                waiting.append(item)
    return modules


class Module:
    """One source file, read as a syntax tree.

    Args:
        name: Dotted name.
        path: Its file.
        content: What the file holds.
    """

    def __init__(self, name: str, path: Path, content: bytes) -> None:
        self._path = path
        tree = ast.parse(content)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self._imports = list(_imports(tree, package))
        self._definitions = [_normal_form(statement) for statement in tree.body if _is_code(statement)]
        self._by_name = {
            name: digest(text) for text, names in self._definitions for name in names
        }  # what an import of that name means

    @property
    def imports(self) -> list[str]:
        """Dotted names that it imports; of ``from a import b`` both a and a.b, whichever is a module."""
        names = [source for source, _, _ in self._imports]
        return [*names, *(f"{source}.{item}" for source, item, _ in self._imports if item)]

    def pieces(self, modules: dict[str, Module]) -> Iterator[str]:
        """Texts that the hash is made of: definitions, what imported names mean, C sources.

        `modules` are all that decode: an import from one of them is known by what it imports.
        """
        yield from (text for text, _ in self._definitions)
        for source, item, alias in self._imports:
            origin = modules.get(source)
            if origin is not None and item in origin._by_name:
                yield f"import {origin._by_name[item]} as {alias}"
            elif not _is_within(source, SHARED_PACKAGES) and source not in modules:
                yield f"import {source} {item} as {alias}"
        for path in sorted(self._path.parent.glob("*.[ch]")):  # compiled by it, not imported
            yield _c_normal_form(path.read_text(encoding="utf-8"))


@cache
def _module(name: str, path: Path, content: bytes) -> Module:
    """A source file as it is now; each run of a sweep hashes the same files, which takes time."""
    return Module(name, path, content)


def digest(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _module_of(target: str, specs: Specs) -> str:
    """The longest part of a dotted path that is a module."""
    name = target.rpartition(".")[0]
    while name and _source_file(name, specs) is None:
        name = name.rpartition(".")[0]
    if not name:
        raise ValueError(f"{target} lies in no module with source")
    return name


def _source_file(name: str, specs: Specs) -> Path | None:
    """The file of a module; None if it has no source."""
    spec = _spec_of(name, specs)
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _spec_of(name: str, specs: Specs) -> ModuleSpec | None:
    """A module's specification, found without importing the packages it lies in, and kept in `specs`."""
    package = name.rpartition(".")[0]
    if name not in specs and package:
        above = _spec_of(package, specs)
        folders = None if above is None else above.submodule_search_locations
        specs[name] = None if folders is None else PathFinder.find_spec(name, list(folders))
    elif name not in specs:
        try:
            specs[name] = find_spec(name)
        except (ImportError, ValueError):
            specs[name] = None
    return specs[name]


def _is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _is_beside(name: str, start: str, specs: Specs) -> bool:
    """Whether a module lies in the folder of a method that is one file, outside of our packages."""
    home = None if "." in start else _source_file(start, specs)
    path = None if home is None else _source_file(name, specs)
    if home is None or path is None or "site-packages" in home.parts:
        return False
    return path.is_relative_to(home.parent) and not _is_within(name, ("bench", "tests", "conf"))


def _is_used_by(module: str, tier: str) -> bool:
    """Whether a tier's passes may need a module that `LOADING` imports."""
    if not module.startswith(f"{TIERS}."):
        return True
    return module.removeprefix(f"{TIERS}.").partition(".")[0] == tier


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str, str]]:
    """Of every import that decoding may run: the module, the name taken from it or "", its name here."""
    for node in _without_trainers(tree):
        if isinstance(node, ast.Import):
            yield from ((item.name, "", item.asname or item.name) for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield from ((source, item.name, item.asname or item.name) for item in node.names)


def _without_trainers(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node` but those inside functions that make trainers, or that only types need."""
    for child in ast.iter_child_nodes(node):
        is_trainer = isinstance(child, ast.FunctionDef) and child.name in TRAINER_FUNCTIONS
        if not is_trainer and not _is_for_types(child):
            yield child
            yield from _without_trainers(child)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _is_code(statement: ast.stmt) -> bool:
    """Whether a statement of a module does something, imports aside: they are read by `_imports`."""
    if isinstance(statement, ast.Import | ast.ImportFrom) or _is_text(statement):
        return False
    return not _is_for_types(statement)


def _is_text(statement: ast.stmt) -> bool:
    """A docstring, or a string that documents an attribute."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _normal_form(statement: ast.stmt) -> tuple[str, tuple[str, ...]]:
    """The text of a statement that the hash reads, and the names that it defines."""
    names: tuple[str, ...] = ()
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        names = (statement.name,)
    elif isinstance(statement, ast.Assign):
        names = tuple(target.id for target in statement.targets if isinstance(target, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        names = (statement.target.id,)
    return ast.dump(_Normaliser().visit(statement)), names


class _Normaliser(ast.NodeTransformer):
    """Takes out of a syntax tree what does not compute."""

    def __init__(self) -> None:
        self._functions = 0  # that contain the node being visited

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        if node.name in TRAINER_FUNCTIONS:
            return None
        node.returns = None
        node.body = self._code(node.body)
        if self._functions == 0:
            _rename_locals(node)
        self._functions += 1
        normal = self.generic_visit(node)
        self._functions -= 1
        return normal

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = self._code(node.body)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # A dataclass leaves class variables alone: the one thing that an annotation computes.
        is_class_variable = "ClassVar" in ast.unparse(node.annotation)
        node.annotation = ast.Constant("ClassVar" if is_class_variable else "")
        return self.generic_visit(node)

    def _code(self, body: list[ast.stmt]) -> list[ast.stmt]:
        code = [statement for statement in body if _is_code(statement)]
        return code or [ast.Pass()]


def _rename_locals(function: ast.FunctionDef) -> None:
    """Number the local variables of a function, and of the functions inside it, by first appearance.

    Arguments keep their names, for callers use them; so does what is declared global or captured by a match.
    """
    stored, kept = dict[str, None](), set[str]()
    for node in _in_order(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stored[node.id] = None
        elif isinstance(node, ast.arg):
            kept.add(node.arg)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            kept.update(node.names)
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            kept.add(node.name)
    renamed = [name for name in stored if name not in kept]
    numbers = {name: f"{index} local" for index, name in enumerate(renamed)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in numbers:
            node.id = numbers[node.id]


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes in the order of the source, so far as the grammar keeps it."""
    for child in ast.iter_child_nodes(node):
        yield child
        yield from _in_order(child)


@cache
def _c_normal_form(source: str) -> str:
    """The text of a C file without comments and layout; directives keep their line."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", source, flags=re.DOTALL)
    lines = text.replace("\\\n", " ").splitlines()
    tokens = (re.findall(r"\w+|[^\w\s]", line) + ["\n"] * line.lstrip().startswith("#") for line in lines)
    return " ".join(token for line in tokens for token in line)
