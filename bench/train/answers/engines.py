"""The library that makes the answers: CTranslate2 where it is installed and fits, else transformers.

Both choose the same tokens when decoding greedily. Which is faster depends on the machine and its load: try
both (``engine=``) before a long run. Our own runtime decodes one prompt at a time, which suits measurements
and not this.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch

from bench.compose.workbench import Target
from bench.errors import UserError
from bench.runtime.sampling import Sampling

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are decoded.

    Args:
        sampling: How tokens are chosen.
        max_new_tokens: Most tokens of an answer.
        threads: CPU threads; None is torch's own choice.
    """

    sampling: Sampling
    max_new_tokens: int
    threads: int | None = None

    @property
    def label(self) -> str:
        """``greedy``, or the settings of the sampling."""
        chosen = self.sampling
        if chosen.temperature == 0:
            return "greedy"
        return f"temperature={chosen.temperature:g}, top_k={chosen.top_k}, top_p={chosen.top_p:g}"


class Engine(Protocol):
    """A model that answers several prompts at once."""

    name: str

    def answer(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        """Token ids of the answers, each with its end token if it has ended.

        Args:
            prompts: Token ids of each prompt.
            seed: Of the sampling.
        """
        ...


class UnsuitableError(Exception):
    """CTranslate2 cannot do what was asked for; the text is the reason."""


def load_engine(choice: str, target: Target, decoding: Decoding) -> Engine:
    """Load the model into the chosen library.

    Args:
        choice: ``ctranslate2``, ``transformers``, or ``auto`` for the first of them that is possible.
        target: The model.
        decoding: How answers are decoded.

    Raises:
        UserError: If CTranslate2 was chosen and cannot be used.
    """
    from bench.train.answers.generating import Transformers

    if decoding.threads is not None:
        torch.set_num_threads(decoding.threads)
    if choice != "transformers":
        try:
            return _load_converted(target, decoding)
        except UnsuitableError as reason:
            if choice == "ctranslate2":
                raise UserError(
                    f"engine=ctranslate2 is not possible: {reason}", "Use engine=auto."
                ) from reason
            log.info("transformers makes the answers. CTranslate2 is not used: %s", reason)
    return Transformers(target, decoding)


def _load_converted(target: Target, decoding: Decoding) -> Engine:
    if find_spec("ctranslate2") is None:
        raise UnsuitableError("it is not installed (pip install 'self-speculative-bench[answers]')")
    if (target.options.device.type, target.options.dtype) != ("cpu", torch.float32):
        raise UnsuitableError("it is used on a CPU in float32 only")
    if decoding.sampling.temperature and decoding.sampling.top_p < 1:
        raise UnsuitableError("its top_p is not known to keep the same tokens as ours")

    from bench.train.answers.converted import load_converted

    return load_converted(target, decoding)
