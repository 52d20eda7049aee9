"""``--help`` of a command: what it does, its groups with their options, and its keys with their meaning.

All of it is read from the command's yaml in ``conf`` and the docstrings of its settings, so that a command
explains its own keys and no other's, at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING as OPEN
from omegaconf import OmegaConf

from bench import PACKAGE_ROOT
from bench.compose.schema import MeasureConfig, ModelConfig, RuntimeConfig, SamplingConfig

CONF = PACKAGE_ROOT / "conf"
SCHEMAS: dict[str, type] = {
    "model": ModelConfig,
    "runtime": RuntimeConfig,
    "sampling": SamplingConfig,
    "measure": MeasureConfig,
}
"""Groups whose keys are explained here; those of a method and a task stand in their pages and yaml files."""
ELSEWHERE = {
    "method": "method.KEY: a setting of the method, see its page in docs/methods",
    "task": "task.KEY: limit, ids, path and what else stands in conf/task/TASK.yaml",
    "recipe": "recipe.KEY: a setting of the training, see conf/recipe/default.yaml",
    "data": "data.KEY: what stands in conf/data/DATA.yaml",
    "base": "base.KEY: a setting of the base model's training, see conf/base",
}
_WIDTH, _LONG = 110, 40


def help_text(config: str, schema: type, folders: Sequence[Path] = ()) -> str:
    """The help of a command.

    Args:
        config: Name of its yaml in ``conf``.
        schema: The dataclass of its settings.
        folders: Further folders of yaml files, from ``--config-dir``.
    """
    text = (CONF / f"{config}.yaml").read_text(encoding="utf-8")
    tree: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    groups = dict(_groups(tree["defaults"]))
    intro = "\n".join(line.removeprefix("#").rstrip() for line in _comments(text))
    listed = "\n".join(
        _paragraph(group, f"{', '.join(_options(group, folders))} (default: {chosen})")
        for group, chosen in groups.items()
    )
    own = [key for key in _own_keys(schema, tree) if key not in groups]
    lines = [_key(schema, key, tree.get(key)) for key in own]
    for group in groups:
        if group in SCHEMAS:
            lines += [_key(SCHEMAS[group], key, None, f"{group}.") for key in _own_keys(SCHEMAS[group], {})]
        elif group in ELSEWHERE:
            lines.append(f"  {ELSEWHERE[group]}")
    parts = (
        intro.strip(),
        *([f"Groups (GROUP=OPTION):\n\n{listed}"] if groups else []),
        "Keys (KEY=VALUE):\n\n" + "\n".join(lines),
        f"What would run: python -m {_module(config)} --cfg job",
        f"Flags, such as --config-dir for yaml files of your own: python -m {_module(config)} --hydra-help",
    )
    return "\n\n".join(parts)


def further_folders(arguments: Sequence[str]) -> list[Path]:
    """Folders that ``--config-dir`` names."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    after = [Path(value) for flag, value in pairs if flag in ("--config-dir", "-cd")]
    joined = [Path(text.partition("=")[2]) for text in arguments if text.startswith("--config-dir=")]
    return [*after, *joined]


def schema_of(config: str) -> type:
    """The dataclass that a command has stored for its yaml."""
    node = ConfigStore.instance().load(f"{config}_schema.yaml").node
    schema: type = OmegaConf.get_type(node)  # type: ignore[assignment]
    return schema


def _module(config: str) -> str:
    if config == "bench":
        return "bench"
    is_of_training = config in ("answers", "calibrate", "skip_set", "frequent_tokens", "mixture")
    return f"bench.train.{config}" if is_of_training else f"bench.{config}"


def _comments(text: str) -> Iterator[str]:
    """The comment at the head of a yaml file."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def _groups(defaults: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """The groups of a defaults list with the option chosen."""
    for entry in defaults:
        if isinstance(entry, dict):
            ((group, option),) = entry.items()
            if not str(group).startswith("override "):
                yield str(group).removeprefix("optional "), "null" if option is None else str(option)


def _options(group: str, folders: Sequence[Path]) -> list[str]:
    """Names of the yaml files of a group, those in its sub-folders too."""
    files = [
        (root / group, file) for root in (CONF, *folders) for file in sorted((root / group).rglob("*.yaml"))
    ]
    return [str(file.relative_to(root).with_suffix("")) for root, file in files]


def _own_keys(schema: type, tree: Any) -> list[str]:  # noqa: ANN401 - plain yaml
    known = [part.name for part in fields(schema)]
    return [*known, *(key for key in tree if key not in (*known, "defaults", "hydra", *SCHEMAS, *ELSEWHERE))]


def _key(schema: type, name: str, stated: object, prefix: str = "") -> str:
    """A key with its default and meaning; of a key that holds others, one line each."""
    part = next((part for part in fields(schema) if part.name == name), None)
    inner = None if part is None else _inner(part)
    if inner is not None:
        return "\n".join(_key(inner, key, None, f"{prefix}{name}.") for key in _own_keys(inner, {}))
    meaning = re.sub(r"\bNone\b", "null", _meanings(schema).get(name, "").replace("`", ""))
    default = _default(part) if stated is None else stated
    shown = _written(default)
    is_plain = default is not OPEN and len(shown) < _LONG
    return _paragraph(f"{prefix}{name}={shown if is_plain else '...'}", meaning)


def _inner(part: Field[Any]) -> type | None:
    """The dataclass that a field holds, if it holds one."""
    made = part.default_factory() if part.default_factory is not MISSING else part.default
    return type(made) if is_dataclass(made) and not isinstance(made, type) else None


def _default(part: Field[Any] | None) -> object:
    if part is None:
        return None
    return part.default_factory() if part.default_factory is not MISSING else part.default


def _written(value: object) -> str:
    """As it is written on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return " ".join(str(value).split())


def _meanings(schema: type) -> dict[str, str]:
    """What the docstrings of a dataclass and of its bases say of each key."""
    found: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        _, _, arguments = (cls.__doc__ or "").partition("Args:")
        for match in re.finditer(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", arguments, re.MULTILINE):
            found[match[1]] = " ".join(match[2].split()).replace("``", "")
    return found


def _paragraph(head: str, text: str) -> str:
    return fill(f"{head}: {text}" if text else head, _WIDTH, initial_indent="  ", subsequent_indent="      ")
