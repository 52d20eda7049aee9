"""Low-rank changes of a checkpoint's projections (LoRA, arXiv 2106.09685), by the names that PEFT gives them.

``NAME.lora_A`` is [r, inputs], ``NAME.lora_B`` [outputs, r], for a rank r; ``NAME.weight`` [outputs, inputs]
is what they change.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

INNER, OUTER = ".lora_A", ".lora_B"


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with their changes added, ``W + B A`` in fp32; tensors without a change as they are."""
    whole = dict(tensors)
    for name in tensors:
        if name.endswith(INNER):
            place = name.removesuffix(INNER)
            inner, outer = whole.pop(name).float(), whole.pop(place + OUTER).float()
            weight = whole[place + ".weight"]
            whole[place + ".weight"] = (weight.float() + outer @ inner).to(weight.dtype)
    return whole
