"""Reads Medusa-1 heads as published: ``medusa_lm_head.pt``, the state dict of all heads (arXiv 2401.10774).

Per head k: ``{k}.0.linear.weight`` [d, d], ``{k}.0.linear.bias`` [d], ``{k}.1.weight`` [V, d], in bf16. The
published config says two heads while the file has five, so the number is read from the keys.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
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
from methods.medusa.draft import head_shapes

log = logging.getLogger(__name__)

FILES = ("medusa_lm_head.safetensors", "medusa_lm_head.pt")
TREE = "mc_sim_7b_63"
"""Spec-Bench's tree for these heads, for every model size; it is too shallow for the fifth head."""
_NUMBERED = re.compile(r"([0-9]{1,9})\.")
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
    _refuse_other_kinds(published, file)
    numbers = [int(match[1]) for name in published if (match := _NUMBERED.match(name))]
    possible = (number for number in numbers if number < len(published))  # a higher one cannot be whole
    heads = 1 + max(possible, default=0)
    require_fit(published, head_shapes(shape, heads), str(file), _FIX)
    _compare_config(file.parent / "config.json", heads)
    facts: dict[str, Any] = {"method": "medusa", "heads": heads}
    if heads >= Tree.of_child_counts(PUBLISHED[TREE], torch.device("cpu")).depth:
        facts["tree"] = TREE
    return dict(published), facts


def _refuse_other_kinds(published: Mapping[str, Tensor], file: Path) -> None:
    if any(name.startswith("medusa_head.") for name in published):
        raise UserError(
            f"{file} is of a Medusa-2 model: its backbone was tuned with its heads, which fit no other",
            _FIX,
        )
    deeper = [name for name in published if re.fullmatch(r"\d+\.[1-9]\d*\.linear\.(weight|bias)", name)]
    if deeper:
        raise UserError(
            f"{file} has heads of several residual blocks ({deeper[0]}); published ones have one", _FIX
        )
    has_lm_head = any(re.fullmatch(r"\d+\.\d+\.weight", name) for name in published)
    if "0.0.linear.weight" in published and not has_lm_head:
        raise UserError(
            f"{file} has heads without LM heads of their own (0.1.weight is missing): version 2 of the "
            "authors' code, which shares the target's",
            _FIX,
        )


def _compare_config(file: Path, heads: int) -> None:
    if file.is_file():
        configured = read_json(file).get("medusa_num_heads")
        if configured not in (None, heads):
            log.info("%s says %s heads, the weights hold %d: using %d", file, configured, heads, heads)
