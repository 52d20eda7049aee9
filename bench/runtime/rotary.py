"""The rotary embedding's tables of checkpoints whose rotation is scaled for long texts.

The rules (linear, dynamic, yarn, longrope, llama3) are transformers' own
functions. Two of them depend on the length of the text, and follow it here as they do there:

- ``longrope`` has short factors for texts of up to the original context, and long ones for longer texts;
- ``dynamic`` stretches the rotation with every token after the trained context. Each such token is rotated
  for the length at which it is read; the tokens of a prompt are read together.

Shapes: S positions, D head width, rotary width <= D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bench.errors import UserError
from bench.runtime.rows import rotary_tables

_CPU = torch.device("cpu")
_FIX = "use the checkpoint's own config.json, as its authors published it"


class RotaryRule:
    """Makes the tables of one model.

    Args:
        config: The transformers configuration.
        capacity: Positions in a table (S).
        dtype: Of the tables; angles are computed in fp32.
        device: Of the tables.

    Raises:
        UserError: If the rule is unknown.
    """

    def __init__(
        self,
        config: Any,  # noqa: ANN401
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._config, self._capacity = config, capacity
        self._dtype, self._device = dtype, device
        self._parameters: dict[str, Any] = config.rope_parameters
        self._kind = self._parameters.get("rope_type", "default")
        if self._kind not in ROPE_INIT_FUNCTIONS:
            raise UserError(
                f"rope_type {self._kind!r} is not supported",
                f"supported: default, {', '.join(sorted(ROPE_INIT_FUNCTIONS))}",
            )
        self._switch = self._last_of_first_stage()
        if self._kind == "longrope" and self._switch is not None:
            self._checked_frequencies(self._switch + 1)  # a fault of the long factors shows at once

    def stage(self, prompt_tokens: int) -> int:
        """Which tables a text with such a prompt needs; 0 are the first ones, of short texts."""
        if self._switch is None or prompt_tokens <= self._switch:
            return 0
        return prompt_tokens if self._kind == "dynamic" else self._switch + 1

    def check(self, stage: int, tokens: int) -> None:
        """Refuse a text of more than `tokens` tokens if it has outgrown the tables that it began with.

        At the original context of longrope all keys would change. transformers computes them anew there for
        Phi-3; here the cache cannot be.

        Raises:
            UserError: If it has.
        """
        if self._kind == "longrope" and self._switch is not None and stage == 0 and tokens >= self._switch:
            raise UserError(
                f"the text grows past {self._switch} tokens, where longrope rotates all earlier keys anew",
                f"set runtime.max_length={self._switch} to end answers there, or lower max_new_tokens",
            )

    def tables(self, stage: int = 0) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of all positions at a stage, see `rotary_tables`.

        Raises:
            UserError: If the rule's settings are missing or do not fit the model.
        """
        frequencies, factor = self._checked_frequencies(stage)  # [rotary / 2], or one row per position
        cos, sin = rotary_tables(frequencies, self._capacity, factor, self._kind)
        return cos.to(self._device, self._dtype), sin.to(self._device, self._dtype)

    def _last_of_first_stage(self) -> int | None:
        """Tokens of the longest text that the first tables serve; None if they serve every text."""
        if self._kind == "dynamic":
            return int(self._config.max_position_embeddings)
        if self._kind == "longrope" and self._parameters.get("short_factor") != self._parameters.get(
            "long_factor"
        ):
            return int(self._parameters.get("original_max_position_embeddings") or 0) or None
        return None

    def _checked_frequencies(self, stage: int) -> tuple[Tensor, float]:
        try:
            return self._frequencies(stage)
        except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, IndexError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"the rotary embedding's settings ({self._kind}) cannot be used: {reason}", _FIX
            ) from error

    def _frequencies(self, stage: int) -> tuple[Tensor, float]:
        """Frequencies, shape [rotary / 2], or [S, rotary / 2] where they differ, and a factor."""
        make = ROPE_INIT_FUNCTIONS[self._kind]
        frequencies, factor = make(self._config, _CPU, seq_len=stage or None)
        if self._kind != "dynamic" or self._switch is None:
            return frequencies.float(), float(factor)
        if self._capacity <= self._switch:
            return frequencies.float(), 1.0
        lengths = torch.arange(1, self._capacity + 1, device=_CPU).clamp_min(stage)[
            :, None
        ]  # at which a token is read
        stretched, _ = make(self._config, _CPU, seq_len=lengths)
        return torch.where(lengths > self._switch, stretched, frequencies).float(), 1.0
