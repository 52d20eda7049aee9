"""What a composed configuration must hold before objects are made of it: known keys, and a value for each.

Hydra refuses a misspelt key by itself; ``+key=value`` and keys left open come through.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from omegaconf import MISSING, DictConfig, OmegaConf

from bench.compose.components import unknown_key
from bench.errors import UserError


def require_known(node: DictConfig, prefix: str = "") -> None:
    """Refuse keys that ``+key=value`` forced into a part that has a schema; nothing would read them."""
    schema = OmegaConf.get_type(node)
    if not is_dataclass(schema):
        return
    known = [prefix + one.name for one in fields(schema)]
    for key in map(str, node):
        if prefix + key not in known:
            raise UserError(*unknown_key(prefix + key, known))
        child = (
            None if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key) else node[key]
        )
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
    """Keys left open; `OmegaConf.missing_keys` trips over interpolations that name one."""
    if isinstance(node, dict):
        for key, value in node.items():
            if value == MISSING:
                yield f"{prefix}{key}"
            yield from _missing(value, f"{prefix}{key}.")


def require_modules(composed: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Refuse a method whose weights default to a folder that this model does not have."""
    raw = OmegaConf.to_container(composed.method, resolve=False)
    if composed.model.modules is not None or not isinstance(raw, dict):
        return
    for key, value in ((str(key), value) for key, value in raw.items()):
        if isinstance(value, str) and "${model.modules}" in value:
            method, model = choices.get("method"), choices.get("model")
            raise UserError(
                f"method={method} needs modules trained for model={model}, and none are shipped",
                f"add method.{key}=FOLDER: 'python -m bench.train method={method} model={model}' trains it, "
                "'python -m bench.convert' makes it of published modules",
            )
