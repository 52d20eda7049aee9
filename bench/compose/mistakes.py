"""Errors of Hydra, OmegaConf and the disk as two lines: which value is wrong, and what to write instead."""

import errno
import sys

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bench.errors import UserError, nearest

NODELESS_GROUPS = ("experiment", "launch")
"""Config groups without a key of their own name in the composed tree: they set keys elsewhere."""

_OTHER_TOOLS = {
    "device_map": (
        "{key} does not exist",
        "runtime.devices=2 spreads the layers over two GPUs; runtime.dtype=bfloat16 halves what fp32 needs",
    )
}
"""Keys that users know from other tools, with the two lines to print."""

_DISK = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)
"""Errors of the operating system for a folder that files cannot be written to."""


def explain(error: BaseException) -> UserError | None:
    """`error` as a user's mistake, or None where it is something else."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, OverrideParseException):
        return UserError(
            f"cannot read the argument {error.override!r}",
            "write KEY=VALUE, and quote values with special characters: 'KEY=\"a, b\"'",
        )
    disk = _disk_error(error)
    if disk is not None:
        return UserError(
            f"{disk.filename or 'the results folder'} cannot be written: {disk.strerror}",
            "free space, mend its permissions or set results_dir; what is stored is intact",
        )
    root = _config_error(error)
    if isinstance(root, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(root)
    if root is not None:
        return _bad_value(error, root)
    if isinstance(
        error, HydraException | ValueError
    ):  # Hydra raises bare ValueErrors for malformed arguments
        line = _one_line(error)
        wants_sweep = line.startswith(("Ambiguous value", "Sweep parameters"))
        return UserError(
            line, "add -m to run every value, or quote a value that is one list" if wants_sweep else _see()
        )
    return None


def unknown_key(key: str, known: list[str]) -> tuple[str, str]:
    """What to print about a key that does not exist: the nearest key first, then all there are."""
    refused = _OTHER_TOOLS.get(key.rpartition(".")[2])
    if refused is not None:
        return refused[0].format(key=key), refused[1]
    near = nearest(key, known)
    hint = f"did you mean {near}? " if near else ""
    return f"unknown key {key}", f"{hint}known: {', '.join(sorted(known))}"


def _see() -> str:
    """Where the options of the command that runs are listed."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else ""
    command = name if name.startswith("bench.") else "bench"
    return f"see the options with 'python -m {command} --help' and the keys with '--cfg job'"


def is_lost_job(error: BaseException) -> bool:
    """Whether submitit reports a job of a sweep that left no result: killed, out of memory, cancelled."""
    return type(error).__module__.startswith("submitit.")


def _disk_error(error: BaseException) -> OSError | None:
    """The disk's refusal that ended the command: Hydra writes its logs before a job begins."""
    if isinstance(error, OSError):
        is_refused = error.errno in _DISK or (error.errno == errno.ENOENT and _is_of_mkdir(error))
        return error if is_refused else None
    is_of_log = isinstance(error, ValueError) and str(error).startswith("Unable to configure handler")
    cause = error.__cause__
    return cause if is_of_log and isinstance(cause, OSError) else None


def _is_of_mkdir(error: OSError) -> bool:
    """Whether making a folder raised it, as below ``/proc``; a file that is missing is another matter."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_name in ("mkdir", "makedirs")


def _config_error(error: BaseException) -> OmegaConfBaseException | None:
    """The OmegaConf error that caused `error`, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    return cause


def _unknown_option(error: MissingConfigException) -> UserError:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    if not options:
        return UserError(_one_line(error), _see())
    if option.startswith("submitit"):
        return UserError(
            f"the launcher {option} is not installed", "pip install 'self-speculative-bench[launch]'"
        )
    near = nearest(option, options)
    hint = f"did you mean {group}={near}? " if near else ""
    return UserError(f"unknown {group} {option!r}", f"{hint}options: {', '.join(sorted(options))}")


def _unknown_key(error: ConfigAttributeError | ConfigKeyError) -> UserError:
    key = error.full_key or str(error.key)
    parent = error.parent_node
    if not isinstance(parent, DictConfig):
        return UserError(_one_line(error), _see())
    prefix = key.rpartition(".")[0]
    names = [str(name) for name in parent if name not in ("hydra", "_target_")]
    known = [f"{prefix}.{name}" if prefix else name for name in names]
    if not prefix:
        known += NODELESS_GROUPS
    return UserError(*unknown_key(key, known))


def _bad_value(error: BaseException, root: OmegaConfBaseException) -> UserError:
    key = root.full_key or "a value"
    return UserError(f"{key}: {_one_line(root)}", f"change {key}; see its value now with '--cfg job'")


def _one_line(error: BaseException) -> str:
    """The first line with content; the lines after it are Hydra's search paths and types."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
