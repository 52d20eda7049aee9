"""The safetensors files of a checkpoint: the tensors by their names in transformers, and their numbers.

Names are mapped here and nowhere else: wrappers such as ``module.`` (DataParallel) and ``_orig_mod.``
(torch.compile) are taken off, and a model that was saved without its head gets its ``model.`` back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from bench.errors import UserError
from bench.runtime.checkpoint_files import adapter, draft_head, require_file, weight_files
from bench.runtime.int8_rows import restored
from bench.runtime.tensor_header import ANY_SIZE, SCALES, StoredTensor, damaged, read_header

log = logging.getLogger(__name__)

FLOATS = ("F64", "F32", "F16", "BF16")
"""Number types that weights may have, by their names in the files."""
_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_BARE = ("embed_tokens.", "layers.", "norm.")
"""Beginnings of names that lack ``model.``."""
_TABLES = ("rotary_emb.inv_freq",)
_OTHER_HEADS = ("mtp.", "model.mtp.")
"""Tensors that plain decoding does not use: heads that predict several tokens."""


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The weights of a checkpoint by the names of transformers.

    Raises:
        UserError: If a file is damaged, two tensors have one name, numbers are not floating, or the folder
            holds an adapter or a draft head.
    """
    tensors = [tensor for file in weight_files(folder) for tensor in read_header(file)]
    stored = {tensor.name: tensor for tensor in tensors}
    mapped = {name: stored[old] for name, old in transformers_names(stored, folder).items()}
    _require_floats(mapped.values())
    return mapped


def transformers_names(names: Iterable[str], folder: Path) -> dict[str, str]:
    """The names in a checkpoint's files, by the names that the tensors have in transformers.

    Tables that follow from the config and heads that plain decoding does not use are left out.

    Raises:
        UserError: If two tensors have one name, or they are of an adapter or a draft head.
    """
    mapped: dict[str, str] = {}
    unused = []
    for name in names:
        own = _unwrapped(name)
        if own.endswith(_TABLES):
            continue
        if own.startswith(_OTHER_HEADS):
            unused.append(name)
        elif own in mapped:
            raise UserError(
                f"{folder}: {mapped[own]} and {name} are the same tensor",
                "save the model again without wrappers",
            )
        else:
            mapped[own] = name
    if unused:
        log.info("%s: left out %d tensors of other heads: %s ...", folder, len(unused), unused[0])
    if any(".lora_" in name for name in mapped):
        raise adapter(folder)
    if "model.fc.weight" in mapped or "fc.weight" in mapped:
        raise draft_head(folder, "of EAGLE")
    return mapped


def _unwrapped(name: str) -> str:
    """A tensor's name in transformers."""
    own = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    return f"model.{own}" if own.startswith(_BARE) else own


def _require_floats(tensors: Iterable[StoredTensor]) -> None:
    for tensor in tensors:
        if tensor.dtype not in FLOATS:
            raise UserError(
                f"{tensor.file}: {tensor.name} holds {tensor.dtype} numbers, not {', '.join(FLOATS[1:])}",
                "use the checkpoint's fp32, bf16 or fp16 original; quantised weights are not supported",
            )


def read_tensors(
    stored: Mapping[str, StoredTensor], place: Callable[[str], torch.device], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The tensors with their numbers, file by file.

    Args:
        stored: What to read, by name.
        place: Where the tensor of a name goes.
        dtype: Their precision.

    Raises:
        UserError: If a file is damaged, or numbers are not finite.
    """
    by_file: dict[tuple[Path, torch.device], list[tuple[str, str]]] = {}
    for name, tensor in stored.items():
        by_file.setdefault((tensor.file, place(name)), []).append((name, tensor.name))
    for (file, device), names in by_file.items():
        try:
            with safe_open(file, framework="pt", device=str(device)) as opened:
                for name, old in names:
                    yield name, finite(opened.get_tensor(old).to(dtype), f"{file}: {old}")
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from error


def read_file(file: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """All tensors of one file by their names there, with numbers of any type; 8-bit rows are restored.

    Raises:
        UserError: If the file is missing or damaged.
    """
    require_file(file, ANY_SIZE)
    try:
        tensors = load_file(file, device=str(device))
    except (SafetensorError, OSError) as error:
        raise damaged(file, error) from error
    has_scales = any(name.endswith(SCALES) for name in tensors)
    return restored(tensors) if has_scales else tensors


def usable(
    tensors: Mapping[str, Tensor], file: Path | str, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """A file's tensors on a device and in a precision, after a check of their numbers.

    Raises:
        UserError: If numbers are not floating or not finite.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{file}: {name} holds {kind} numbers, not floating ones", "take an intact file")
    return {name: finite(tensor.to(device, dtype), f"{file}: {name}") for name, tensor in tensors.items()}


def finite(tensor: Tensor, source: str) -> Tensor:
    """`tensor`, after a check that all its numbers are finite.

    Args:
        tensor: Of floating numbers.
        source: Its file and name, for the message.

    Raises:
        UserError: If they are not.
    """
    if tensor.is_meta or not tensor.numel():
        return tensor
    ends = torch.stack(tensor.aminmax())
    if not bool(ends.isfinite().all()):
        precision = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{source} holds numbers that are not finite in {precision} ({float(ends[1]):g})",
            "download the checkpoint again; if its training diverged, take an earlier one"
            + ("; or set runtime.dtype=bfloat16" if tensor.dtype == torch.float16 else ""),
        )
    return tensor
