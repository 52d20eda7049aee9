"""Answers by CTranslate2, from a conversion of the model that is kept in the cache.

The conversion is made once for each set of weights, in float32, next to the models that `bench.fetch` keeps,
and it is kept only if it computes the same logits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch

from bench.compose.workbench import Target
from bench.records.files import scratch_folder
from bench.runtime.package_index import models_folder
from bench.train.answers.engines import Decoding, UnsuitableError
from bench.train.answers.generating import load_model

log = logging.getLogger(__name__)
PRECISION = "float32"
TRIED_TOKENS = 64
TOLERANCE = 1e-2
"""Largest difference of two logits, as a share of their standard deviation; rounding makes about 1e-5."""


class Converted:
    """A model in CTranslate2.

    Args:
        folder: The converted model.
        target: The model that it was made of.
        decoding: How answers are decoded.
    """

    name = "ctranslate2"

    def __init__(self, folder: Path, target: Target, decoding: Decoding) -> None:
        self._folder, self._threads = folder, decoding.threads or torch.get_num_threads()
        self._is_greedy = decoding.sampling.temperature == 0
        self._generator = self._load()
        self._tokenizer: Any = target.chat.tokenizer
        self._ends = sorted(target.eos_ids)
        self._options = {"max_length": decoding.max_new_tokens, **_choosing(decoding)}

    def answer(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        """Token ids of the answers, each with its end token if it has ended."""
        if not self._is_greedy:
            ctranslate2.set_random_seed(seed)
            self._generator = self._load()  # only a new one takes the seed; takes less than a second
        results = self._generator.generate_batch(
            [self._tokenizer.convert_ids_to_tokens(list(prompt)) for prompt in prompts],
            include_prompt_in_result=False,
            end_token=self._ends,
            return_end_token=True,
            **self._options,
        )
        return [list(result.sequences_ids[0]) for result in results]

    def _load(self) -> Any:  # noqa: ANN401 - ctranslate2 has no types
        return ctranslate2.Generator(
            str(self._folder), device="cpu", intra_threads=self._threads, compute_type=PRECISION
        )


def load_converted(target: Target, decoding: Decoding) -> Converted:
    """The converted model from the cache, converted first if it is not there.

    Raises:
        UnsuitableError: If CTranslate2 has no conversion for this kind of model, or a wrong one.
    """
    vocabulary = json.dumps(sorted(target.chat.tokenizer.get_vocab().items()))  # is part of the conversion
    name = f"{target.weights_hash}-{hashlib.sha256(vocabulary.encode()).hexdigest()[:8]}"
    folder = models_folder() / "ctranslate2" / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        log.info("converting the model for CTranslate2, once, to %s", folder)
        _convert(target, folder)
    return Converted(folder, target, decoding)


def _convert(target: Target, folder: Path) -> None:
    """Save the model in float32 for the converter, and move its result into place in one step."""
    with scratch_folder(folder.parent, "converting-") as scratch:
        source, fresh = scratch / "source", scratch / "converted"
        model = load_model(target.folder, torch.device("cpu"), torch.float32)
        model.save_pretrained(source)
        target.chat.tokenizer.save_pretrained(source)
        try:
            converter = ctranslate2.converters.TransformersConverter(str(source))
            converter.convert(str(fresh), quantization=PRECISION)
        except (ValueError, NotImplementedError, AttributeError) as error:  # of what it does not know
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UnsuitableError(f"it cannot convert this model: {reason}") from error
        shutil.rmtree(source)
        _require_same_logits(model, fresh, len(target.chat.tokenizer))
        if not folder.is_dir():  # another process may have been faster
            fresh.rename(folder)


def _require_same_logits(model: Any, folder: Path, vocabulary: int) -> None:  # noqa: ANN401 - of transformers
    ids = np.random.default_rng(0).integers(vocabulary, size=(1, TRIED_TOKENS))
    with torch.inference_mode():
        original = model(torch.from_numpy(ids)).logits[0].numpy()
    generator = ctranslate2.Generator(str(folder), device="cpu", compute_type=PRECISION)
    converted = np.array(generator.forward_batch(ids.tolist()))[0]
    difference = float(np.abs(converted - original).max() / original.std())
    if not difference <= TOLERANCE:
        raise UnsuitableError(f"its conversion of this model computes other logits (by {difference:.2g})")


def _choosing(decoding: Decoding) -> dict[str, float]:
    """Our sampling in the terms of CTranslate2, whose `sampling_topk` of 1 is greedy, and 0 keeps all."""
    sampling = decoding.sampling
    if sampling.temperature == 0:
        return {"sampling_topk": 1}
    return {"sampling_topk": sampling.top_k, "sampling_temperature": sampling.temperature}
