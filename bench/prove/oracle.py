"""The independent implementation: the same weights in transformers' own model, with no code of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Oracle:
    """Teacher-forced logits of a random model.

    Args:
        model: A causal language model of transformers, on the device of the model under test.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - transformers' classes are not typed
        self._model = model.eval()

    @torch.inference_mode()
    def rows(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Logits at every token of every text, each of shape [T, V], in one pass over all texts.

        Shorter texts are padded at the end, where no earlier token sees it.
        """
        longest = max(map(len, texts))
        padded = [[*text, *[0] * (longest - len(text))] for text in texts]
        logits: Tensor = self._model(torch.tensor(padded, device=self._model.device), use_cache=False).logits
        return [row[: len(text)].double() for row, text in zip(logits, texts, strict=True)]
