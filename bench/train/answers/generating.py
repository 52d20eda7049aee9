"""Answers by transformers: ``generate`` on a batch whose prompts are padded on the left.

Shapes: B prompts, P tokens of the longest prompt, N new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from bench.compose.workbench import Target
from bench.errors import UserError
from bench.runtime.by_transformers import load_by_transformers
from bench.runtime.checkpoint_files import is_gguf
from bench.runtime.gguf import GgufTensors, read_gguf
from bench.runtime.loading import load_config
from bench.train.answers.engines import Decoding


class Transformers:
    """A model in transformers.

    Args:
        target: The model.
        decoding: How answers are decoded.
    """

    name = "transformers"

    def __init__(self, target: Target, decoding: Decoding) -> None:
        self._device, self._ends = target.options.device, target.eos_ids
        self._model = load_model(target.folder, self._device, target.options.dtype)
        # The checkpoint's own settings must not add to ours: Qwen2.5's has a penalty of repetitions.
        self._model.generation_config = generation_settings(decoding, self._ends)

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        """Token ids of the answers, each with its end token if it has ended."""
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)  # [B, P]
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        torch.manual_seed(seed)
        out = self._model.generate(ids.to(self._device), attention_mask=mask.to(self._device))
        return [self._until_end(row) for row in out[:, width:].tolist()]  # [B, N]

    def _until_end(self, ids: list[int]) -> list[int]:
        """An answer without the padding that follows its end token."""
        length = sum(1 for _ in takewhile(lambda token: token not in self._ends, ids))
        return ids[: length + 1]


def generation_settings(decoding: Decoding, ends: frozenset[int]) -> Any:  # noqa: ANN401 - transformers has no types
    """Our settings in the terms of transformers."""
    sampling = decoding.sampling
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoding.max_new_tokens,
        do_sample=sampling.temperature > 0,
        eos_token_id=sorted(ends) or None,
        pad_token_id=min(ends, default=0),
        **(drawn if sampling.temperature > 0 else {}),
    )


def load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401 - as above
    """A model in transformers; of a GGUF file the weights are those that our runtime reads.

    Raises:
        UserError: If a weight is missing.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]  # the bar of the answers is enough
    model: Any
    if not is_gguf(folder):
        return load_by_transformers(folder, dtype).to(device).eval()
    config = load_config(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    tensors = GgufTensors(read_gguf(folder), lambda _: torch.device("cpu"), dtype)
    state = {name: tensors.pop(name, None) for name in list(tensors)}
    missing, unknown = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if unknown or set(missing) - tied:
        raise UserError(
            f"{folder} lacks weights ({', '.join(missing)}), or holds unknown ones ({', '.join(unknown)})",
            "convert the model again with llama.cpp's convert_hf_to_gguf.py",
        )
    model.tie_weights()
    return model.to(device).eval()
