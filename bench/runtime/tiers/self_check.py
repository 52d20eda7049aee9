"""Whether a tier's passes compute what the textbook's do: a check of a few tokens before a run begins.

Recorded passes depend on the driver, on torch and on the GPU, and a fault in any of them may show as wrong
tokens or as an exception. `soundest` finds it before anything is measured, so that ``runtime.tier=auto``
leaves a user with the next slower tier instead of with nothing.

Shapes: P tokens of the text, V vocabulary.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.cache import KVCache
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.tiers.eager import EagerDecoder

log = logging.getLogger(__name__)

PROMPT, STEPS, ROWS = 8, 8, 4
"""Tokens of the prompt; tokens decoded one by one; rows of the pass after them."""
_ROUNDING = 2.0
"""A token may lie below the best by this many roundings of the largest logit: another order of a sum."""


@dataclass(frozen=True, slots=True)
class Sound:
    """The fastest tier that agrees with the textbook.

    Args:
        tier: Its name.
        complaints: Why each faster tier was left, in order.
    """

    tier: Tier
    complaints: tuple[str, ...] = ()


@torch.inference_mode()
def soundest(decoder: Decoder) -> Sound:
    """Compare a decoder, then the tier ``static``, with the tier ``eager`` on the same weights.

    A warning says why a faster tier was left.

    Args:
        decoder: The loaded model; its cache is overwritten.

    Raises:
        UserError: If the textbook's own logits are not finite.
    """
    text = torch.arange(1, PROMPT + 1, device=decoder.device) % decoder.config.vocab
    text, expected = _decoded(_sibling(EagerDecoder, decoder), text)
    if not bool(expected.isfinite().all()):
        raise UserError(
            "the model's logits are not finite, even by the textbook's passes",
            "check the weights, or use another precision: runtime.dtype=bfloat16 or float32",
        )
    sound = _fastest(decoder, text, expected)
    if sound.complaints:
        log.warning("runtime.tier=%s is used: %s", sound.tier, "; ".join(sound.complaints))
    return sound


def _fastest(decoder: Decoder, text: Tensor, expected: Tensor) -> Sound:
    complaints: list[str] = []
    for candidate in (decoder, *([] if decoder.tier == "static" else [_sibling(Decoder, decoder)])):
        complaint = _complaint(candidate, text, expected)
        if complaint is None:
            return Sound(candidate.tier, tuple(complaints))
        complaints.append(f"tier {candidate.tier} {complaint}")
    return Sound("eager", tuple(complaints))


def _sibling(kind: type[Decoder], decoder: Decoder) -> Decoder:
    """A decoder of another tier with the same weights and a short cache of its own."""
    config = decoder.config
    capacity = PROMPT + STEPS + ROWS
    shape = (decoder.depth, config.kv_heads, capacity, config.head_dim, decoder.dtype, decoder.device)
    return kind(decoder.weights, KVCache(*shape), decoder.placement)


def _decoded(decoder: Decoder, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """A prompt [P] with its greedy continuation, and the logits [STEPS + ROWS, V] of `_logits`."""
    text, logits = prompt, decoder.prefill(prompt)
    for _ in range(STEPS + ROWS - 1):
        text = torch.cat([text, logits.argmax(dim=-1)])
        logits = decoder.step(text[-1:], text.numel() - 1)
    return text, _logits(decoder, text)


def _logits(decoder: Decoder, text: Tensor) -> Tensor:
    """Logits after the prompt, after tokens that pass one by one, and after `ROWS` more in one pass."""
    rows = [decoder.prefill(text[:PROMPT])]
    rows += [decoder.step(text[place : place + 1], place) for place in range(PROMPT, PROMPT + STEPS - 1)]
    last = PROMPT + STEPS - 1
    return torch.cat([*rows, decoder.step(text[last : last + ROWS], last)])


def _complaint(decoder: Decoder, text: Tensor, expected: Tensor) -> str | None:
    """What is wrong with a decoder's logits for a text, or None."""
    try:
        logits = _logits(decoder, text)
    except (RuntimeError, UserError) as error:
        return f"fails: {str(error).splitlines()[0]}"
    if not bool(logits.isfinite().all()):
        return "returns logits that are not finite"
    chosen = expected.float().gather(1, logits.argmax(dim=-1, keepdim=True))[:, 0]
    allowed = _ROUNDING * torch.finfo(decoder.dtype).eps * expected.float().abs().amax(dim=-1)
    wrong = (expected.float().amax(dim=-1) - chosen > allowed).tolist()
    if not any(wrong):
        return None
    return f"chooses other tokens than the textbook's passes ({sum(wrong)} of {len(wrong)})"
