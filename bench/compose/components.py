"""Objects that a yaml file names, and the checks that every configured key and value has to pass.

Methods and tasks are components: a constructor (``_target_``) and its parameters, built in this one place. A
component may live in any importable package; nothing is registered, and the constructor's signature is the
list of valid keys. Hydra itself refuses a misspelt key; ``+key=value`` and keys left open are checked here.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import hydra.errors
import hydra.utils
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, OmegaConf

from bench import PACKAGE_PREFIX, PACKAGE_ROOT
from bench.compose.mistakes import unknown_key
from bench.errors import UserError

HYDRA_KEYS = ("_args_", "_convert_", "_partial_", "_recursive_")
"""Instructions to Hydra's `instantiate`, not parameters."""

LEAST_TEMPERATURE = 1e-6
"""As in `bench.runtime.sampling`, which imports torch."""

PLUGIN_GROUP = "bench.methods"
"""Entry points of this group name the modules of an installed package that Hydra may build methods from."""


_WORDS: Mapping[type, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}
"""How a message calls the types that values are checked for."""


@dataclass(frozen=True, slots=True)
class Component:
    """A constructor and its parameters, as configured.

    Args:
        group: Config group it belongs to: ``method`` or ``task``.
        name: Name of its yaml file.
        target: Dotted path of the constructor.
        params: Keyword arguments, as written. Only `build` resolves ``package:`` paths, so that run ids do
            not depend on where the package is installed.
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
                f"add '_target_: package.module.Class' to {yaml_place(group, str(name))}",
            )
        params = {str(key): value for key, value in node.items() if key != "_target_"}
        target = str(node["_target_"])
        return cls(group, (name or target.rpartition(".")[2]).replace("/", "-"), target, params)

    def build(self) -> Any:  # noqa: ANN401 - the yaml decides the type; callers check the protocol
        """The object.

        Raises:
            UserError: If the constructor cannot be imported, or a key is unknown, missing or refused.
        """
        constructor = self._constructor()
        self._check_keys(constructor)
        require_types(self.group, constructor, self.params)
        node = {"_target_": self.target, "_convert_": "all", **_resolved(self.params)}
        try:
            with _trusted():
                return hydra.utils.instantiate(node)
        except hydra.errors.InstantiationException as error:
            raise self._refusal(error) from error

    def _constructor(self) -> Callable[..., Any]:
        try:
            constructor = hydra.utils.get_object(self.target)
        except Exception as error:  # Hydra passes on whatever the import raised
            raise UserError(
                f"{self.group}={self.name}: cannot import {self.target} ({_first_line(error)})",
                f"correct _target_ in {yaml_place(self.group, self.name)}, or install its package",
            ) from error
        if not callable(constructor):
            raise UserError(
                f"{self.target} is not a constructor", f"correct _target_ of {self.group}={self.name}"
            )
        return constructor  # type: ignore[no-any-return]

    def _check_keys(self, constructor: Callable[..., Any]) -> None:
        known = inspect.signature(constructor).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            return
        for key in self.params:
            if key not in known and key not in HYDRA_KEYS:
                raise UserError(
                    *unknown_key(f"{self.group}.{key}", [f"{self.group}.{name}" for name in known])
                )
        for key, parameter in known.items():
            is_required = (
                parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
            )
            if is_required and key not in self.params:
                raise UserError(
                    f"{self.group}={self.name} needs {self.group}.{key}", f"add +{self.group}.{key}=..."
                )

    def _refusal(self, error: Exception) -> Exception:
        cause = error.__cause__
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, ValueError | TypeError | RuntimeError):  # the last of an unknown ~user
            given = ", ".join(f"{self.group}.{key}={value}" for key, value in self.params.items())
            return UserError(f"{self.group}={self.name}: {_first_line(cause)}", f"change one of: {given}")
        return error


def yaml_place(group: str, name: str) -> str:
    """The file that Hydra took for an option, which may lie in a folder of ``--config-dir``."""
    if not GlobalHydra.instance().is_initialized():
        return f"conf/{group}/{name}.yaml"
    for element in GlobalHydra.instance().config_loader().get_search_path().get_path():
        folder = Path(str(element.path).removeprefix("file://"))
        for spelling in (name, name.replace("-", "/")):
            file = folder / group / f"{spelling}.yaml"
            if file.is_file():
                return f"conf/{group}/{spelling}.yaml" if folder == PACKAGE_ROOT / "conf" else str(file)
    return f"conf/{group}/{name}.yaml"


def _plain_types(constructor: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """Types of the parameters that take numbers, texts, flags or null only, by their annotation."""
    function = constructor.__dict__.get("__init__") if isinstance(constructor, type) else constructor
    try:
        hints = get_type_hints(function or constructor)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        return {}
    options = {key: get_args(hint) if isinstance(hint, UnionType) else (hint,) for key, hint in hints.items()}
    return {key: kinds for key, kinds in options.items() if key != "return" and set(kinds) <= set(_WORDS)}


def require_types(group: str, constructor: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse a value that is no number, text or flag where a constructor's annotation asks for one.

    Raises:
        UserError: If one is. Other annotations are left to the constructor.
    """
    for key, kinds in _plain_types(constructor).items():
        if key in given and not any(_is_of(given[key], kind) for kind in kinds):
            words = " or ".join(_WORDS[kind] for kind in kinds)
            raise UserError(f"{group}.{key} must be {words}, got {given[key]!r}", f"correct {group}.{key}")


def _is_of(value: object, kind: type) -> bool:
    """Whether a yaml value is of a type; whole numbers are numbers, flags are not."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind


def resolve_path(path: str) -> str:
    """`path` with a leading ``package:`` replaced by the folder that holds the ``bench`` package."""
    if not path.startswith(PACKAGE_PREFIX):
        return path
    return str(PACKAGE_ROOT / path.removeprefix(PACKAGE_PREFIX))


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


def require_choice(key: str, value: str, options: Sequence[str]) -> None:
    """Refuse a value that is not among the options.

    Raises:
        UserError: If it is not.
    """
    if value not in options:
        raise UserError(
            f"{key} must be one of {', '.join(options)}, got {value!r}", f"use {key}={options[0]}"
        )


def require_least(key: str, value: float | None, least: int, most: float = math.inf) -> None:
    """Refuse a value below `least` or above `most`, and what is not finite; None passes.

    Raises:
        UserError: If it is outside, infinite or not a number.
    """
    if value is None:
        return
    if not value >= least:  # also refuses nan
        raise UserError(f"{key} must be at least {least}, got {value}", f"use {key}={least} or more")
    if value > most or value == math.inf:
        limit = "finite" if most == math.inf else f"at most {most:.15g}"
        fix = f"use {key}={least} or more" if most == math.inf else f"use {key}={most:.15g} or less"
        raise UserError(f"{key} must be {limit}, got {value}", fix)


def require_temperature(value: float) -> None:
    """Refuse a temperature that is neither 0 (greedy) nor a number that logits can be divided by.

    Raises:
        UserError: If it is negative, infinite, not a number, or too small.
    """
    require_least("sampling.temperature", value, 0)
    if 0 < value < LEAST_TEMPERATURE:
        raise UserError(
            f"sampling.temperature must be 0 (greedy) or at least {LEAST_TEMPERATURE:g}, got {value:g}",
            "use sampling.temperature=0 for greedy decoding",
        )


def require_known(node: DictConfig, prefix: str = "") -> None:
    """Refuse keys that ``+key=value`` forced into a part that has a schema; nothing would read them."""
    schema = OmegaConf.get_type(node)
    if not is_dataclass(schema):
        return
    known = [prefix + field.name for field in fields(schema)]
    for key in map(str, node):
        if prefix + key not in known:
            raise UserError(*unknown_key(prefix + key, known))
        has_value = not (OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key))
        child = node[key] if has_value else None
        if isinstance(child, DictConfig):
            require_known(child, f"{prefix}{key}.")


def require_complete(composed: DictConfig) -> None:
    """Refuse keys that were left open (``???``)."""
    missing = list(_missing(OmegaConf.to_container(composed, resolve=False), ""))
    if missing:
        raise UserError(
            f"{' and '.join(missing)} must be given", f"add {' '.join(f'{key}=...' for key in missing)}"
        )


def _missing(node: object, prefix: str) -> Iterator[str]:
    """Keys left open; `OmegaConf.missing_keys` fails on interpolations that point to such a key."""
    if isinstance(node, dict):
        for key, value in node.items():
            if value == MISSING:
                yield f"{prefix}{key}"
            yield from _missing(value, f"{prefix}{key}.")


def _resolved(value: Any) -> Any:  # noqa: ANN401 - walks a tree of yaml values
    """`value` with every ``package:`` path in it resolved."""
    if isinstance(value, Mapping):
        return {key: _resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    return resolve_path(value) if isinstance(value, str) else value


def _trusted() -> AbstractContextManager[Any]:
    """Hydra 1.4 builds only what a whitelist names; Hydra 1.3 has no such list."""
    whitelist = getattr(hydra.utils, "execution_whitelist", None)
    if whitelist is None:
        return nullcontext()
    plugins = [f"{point.value.partition(':')[0]}.*" for point in entry_points(group=PLUGIN_GROUP)]
    context: AbstractContextManager[Any] = whitelist("methods.*", "bench.tasks.*", "bench.train.*", *plugins)
    return context


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
