"""Reads Medusa-1 heads as published: ``medusa_lm_head.pt``, the state dict of all heads (arXiv 2401.10774).

Version 1, per head k: ``{k}.0.linear.weight`` [d, d], ``{k}.0.linear.bias`` [d], and an LM head of its own,
``{k}.1.weight`` [V, d], in bf16. Version 2, as text-generation-inference reads it, has the blocks alone; the
target's LM head follows; ``{k}.linear.weight`` is read as ``{k}.0.linear.weight``. The published config says
two heads while the file has five, so the number is read from the keys.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.checkpoint_files import read_json
from bench.runtime.families import DecoderConfig
from bench.runtime.modules import require_fit
from methods.core.tree_choice import PUBLISHED
from methods.core.trees import Tree
from methods.medusa.draft import HeadLayout

log = logging.getLogger(__name__)

FILES = ("medusa_lm_head.safetensors", "medusa_lm_head.pt")
TREE = "mc_sim_7b_63"
"""Spec-Bench's tree for these heads, for every model size; it is too shallow for the fifth head."""
_SINGLE_BLOCK = re.compile(r"^(\d+)\.linear\.")
_HEAD = re.compile(r"([0-9]{1,9})\.")
_BLOCK = re.compile(r"[0-9]+\.([0-9]{1,9})\.linear\.")
_LM_HEAD = re.compile(r"\d+\.\d+\.weight")
_FIX = "use the heads published for this model: FasterDecoding/medusa-vicuna-7b-v1.3, -13b-v1.3 or -33b-v1.3"


def convert_medusa(
    published: Mapping[str, Tensor], shape: DecoderConfig, file: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and provenance of the module; tensor names stay as published.

    Args:
        published: The published state dict.
        shape: Shape of the target.
        file: Path of the file, for messages.

    Raises:
        UserError: If the file is of another kind of Medusa, or does not fit the target.
    """
    _refuse_tuned_backbone(published, file)
    tensors = {_SINGLE_BLOCK.sub(r"\1.0.linear.", name): tensor for name, tensor in published.items()}
    layout = _layout(tensors)
    require_fit(tensors, layout.shapes(shape), str(file), _FIX)
    _compare_config(file.parent / "config.json", layout.heads)
    facts: dict[str, Any] = {"method": "medusa", **asdict(layout)}
    if layout.heads >= Tree.of_child_counts(PUBLISHED[TREE], torch.device("cpu")).depth:
        facts["tree"] = TREE
    return tensors, facts


def _layout(tensors: Mapping[str, Tensor]) -> HeadLayout:
    """Heads, blocks and LM heads as the names say; `require_fit` then names what is missing or left over."""
    heads = 1 + _highest([match[1] for name in tensors if (match := _HEAD.match(name))], len(tensors))
    blocks = 1 + _highest([match[1] for name in tensors if (match := _BLOCK.match(name))], len(tensors))
    return HeadLayout(heads, blocks, any(_LM_HEAD.fullmatch(name) for name in tensors))


def _highest(numbers: Sequence[str], end: int) -> int:
    """The highest of the numbers below `end`, or 0; heads or blocks with a higher one cannot be whole."""
    return max((int(number) for number in numbers if int(number) < end), default=0)


def _refuse_tuned_backbone(published: Mapping[str, Tensor], file: Path) -> None:
    if any(name.startswith("medusa_head.") for name in published):
        raise UserError(
            f"{file} is of a Medusa-2 model: its backbone was tuned with its heads, which fit no other",
            _FIX,
        )


def _compare_config(file: Path, heads: int) -> None:
    if file.is_file():
        configured = read_json(file).get("medusa_num_heads")
        if configured not in (None, heads):
            log.info("%s says %s heads, the weights hold %d: using %d", file, configured, heads, heads)
