"""Objects that a yaml file names: a constructor (``_target_``) and its parameters, built in this one place.

Methods and tasks are such objects. One may live in any importable package; nothing is registered, and the
constructor's signature is the list of valid keys.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import hydra.errors
import hydra.utils

from bench.errors import UserError

PACKAGE_PREFIX = "package:"
"""Marks a path relative to where this package is installed: shipped weights, wherever the command runs."""

HYDRA_KEYS = ("_args_", "_convert_", "_partial_", "_recursive_")
"""Instructions to Hydra's `instantiate`, not parameters."""

PLUGIN_GROUP = "bench.methods"
"""Entry-point group through which an installed package declares the modules of its methods to be trusted."""


def resolve_path(path: str) -> str:
    """`path` with a leading ``package:`` replaced by the folder that holds the ``bench`` package."""
    if not path.startswith(PACKAGE_PREFIX):
        return path
    return str(Path(__file__).resolve().parents[2] / path.removeprefix(PACKAGE_PREFIX))


@dataclass(frozen=True, slots=True)
class Component:
    """A constructor and its parameters, as configured.

    Args:
        group: Config group it belongs to: ``method`` or ``task``.
        name: Name of its yaml file.
        target: Dotted path of the constructor.
        params: Keyword arguments, as written: only `build` resolves ``package:`` paths, so run ids do not
            depend on where the package is installed.
    """

    group: str
    name: str
    target: str
    params: Mapping[str, Any]

    @classmethod
    def from_node(cls, group: str, name: str | None, node: object) -> "Component":
        """Read a resolved config node.

        Raises:
            UserError: If the node names no constructor.
        """
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            raise UserError(
                f"{group} must name a constructor in _target_, got {node!r}",
                f"add '_target_: package.module.Class' to conf/{group}/{name}.yaml",
            )
        params = {str(key): value for key, value in node.items() if key != "_target_"}
        target = str(node["_target_"])
        return cls(group, (name or target.rpartition(".")[2]).replace("/", "-"), target, params)

    def build(self) -> Any:  # noqa: ANN401 - what it is, is the yaml's choice; callers check the protocol
        """The object.

        Raises:
            UserError: If the constructor cannot be imported, or a key is unknown, missing or refused.
        """
        self._check_keys(self._constructor())
        node = {"_target_": self.target, "_convert_": "all", **_resolved(self.params)}
        try:
            with _trusted():
                return hydra.utils.instantiate(node)
        except hydra.errors.InstantiationException as error:
            raise self._refusal(error) from error

    def _constructor(self) -> Callable[..., Any]:
        try:
            found = hydra.utils.get_object(self.target)
        except Exception as error:  # Hydra passes on whatever the import raised
            raise UserError(
                f"{self.group}={self.name}: cannot import {self.target} ({_first_line(error)})",
                f"correct _target_ in conf/{self.group}/{self.name}.yaml, or install its package",
            ) from error
        if not callable(found):
            raise UserError(
                f"{self.target} is not a constructor", f"correct _target_ of {self.group}={self.name}"
            )
        return found  # type: ignore[no-any-return]

    def _check_keys(self, constructor: Callable[..., Any]) -> None:
        known = inspect.signature(constructor).parameters
        if any(one.kind is one.VAR_KEYWORD for one in known.values()):
            return
        for key in self.params:
            if key not in known and key not in HYDRA_KEYS:
                raise UserError(*unknown_key(f"{self.group}.{key}", [f"{self.group}.{one}" for one in known]))
        for key, one in known.items():
            if one.default is one.empty and key not in self.params and one.kind is not one.VAR_POSITIONAL:
                raise UserError(
                    f"{self.group}={self.name} needs {self.group}.{key}", f"add +{self.group}.{key}=..."
                )

    def _refusal(self, error: Exception) -> Exception:
        cause = error.__cause__
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, ValueError | TypeError):
            given = ", ".join(f"{self.group}.{key}={value}" for key, value in self.params.items())
            return UserError(f"{self.group}={self.name}: {_first_line(cause)}", f"change one of: {given}")
        return error


_NOT_YET = {
    "device_map": (
        "a model cannot be spread over several devices yet: {key} does not exist",
        "leave it out: one device must hold the whole model; runtime.dtype=bfloat16 halves what fp32 needs",
    )
}
"""Keys that users bring from other tools, for what this one does not do, and the two lines about them."""


def unknown_key(key: str, known: list[str]) -> tuple[str, str]:
    """The two lines about a key that does not exist: the nearest one first, then all there are."""
    refused = _NOT_YET.get(key.rpartition(".")[2])
    if refused is not None:
        return refused[0].format(key=key), refused[1]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key {key}", f"{hint}known: {', '.join(sorted(known))}"


def by(key: str, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a value of any yaml type
    """The value that belongs to a key: ``${by:${model.name},{vicuna_7b: 2, vicuna_13b: 3}}`` in yaml.

    For what a paper set per model.

    Raises:
        UserError: If no value belongs to the key.
    """
    if key not in values:
        raise UserError(
            f"no value is set for {key}, only for {', '.join(map(str, values))}",
            "choose one of these, or set the key itself",
        )
    return values[key]


def _resolved(value: Any) -> Any:  # noqa: ANN401 - walks a tree of yaml values
    """`value` with every ``package:`` path in it resolved."""
    if isinstance(value, Mapping):
        return {key: _resolved(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_resolved(one) for one in value]
    return resolve_path(value) if isinstance(value, str) else value


def _trusted() -> AbstractContextManager[Any]:
    """Hydra 1.4 builds only what a whitelist names; Hydra 1.3 has no such list."""
    whitelist = getattr(hydra.utils, "execution_whitelist", None)
    if whitelist is None:
        return nullcontext()
    plugins = [f"{one.value.partition(':')[0]}.*" for one in entry_points(group=PLUGIN_GROUP)]
    context: AbstractContextManager[Any] = whitelist("methods.*", "bench.tasks.*", "bench.train.*", *plugins)
    return context


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
