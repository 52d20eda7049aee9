"""A checkpoint as the transformers library runs it: to compare with our decoder, and to let it answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.errors import UserError


def load_by_transformers(folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """The model as transformers reads it, on the CPU; code in the checkpoint is not run.

    Raises:
        UserError: If weights are missing, for which transformers would take random ones.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
    )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"transformers finds no {missing[0]} in {folder}, and {len(missing) - 1} more are missing",
            "save the model again with save_pretrained, without wrappers around it",
        )
    return model
