"""Hidden rows and likeliest next tokens of the frozen model on a set of dialogues, on disk.

A dialogue runs through the model once. Kept are the rows entering the layers that a method's loss reads, for
every token, and the model's `LIKELIEST` next tokens with their probabilities, for every answer token. A
method that reads other layers adds them to the same folder by another pass. An interrupted pass goes on where
it stopped.

Shapes: N tokens of all dialogues, M trained positions, K likeliest tokens, d width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from bench.records.files import write_text
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead
from bench.show.layout import byte_size
from bench.show.waiting import Wait
from bench.train.cache.store import array
from bench.train.same_settings import read_object, require_same_settings
from bench.train.trainers.loop import Dialogue
from bench.train.trainers.modules import Example, target_pass
from methods.training.rows import LIKELIEST, LikelyTokens, TrainingRows

INDEX_FILE = "cache.json"
LIKELY = "likely"
"""Name of the next tokens in the index, beside the layers' numbers."""
_SAVE_EVERY = 50  # dialogues
log = logging.getLogger(__name__)


class RowCache:
    """The cache of one set of dialogues.

    Args:
        folder: Its folder.
        decoder: The frozen model.
        dialogues: Tokens and which of them are answers; cut to the decoder's capacity by the caller.
        facts: What the rows depend on beside the dialogues: the model's weights.

    Raises:
        UserError: If the folder holds the rows of another model or other dialogues, its index is damaged, or
            there is no answer.
    """

    def __init__(
        self, folder: Path, decoder: Decoder, dialogues: Sequence[Dialogue], facts: Mapping[str, Any]
    ) -> None:
        self._folder, self._decoder = folder, decoder
        self._ids = [torch.tensor(ids) for ids, _ in dialogues]
        self._masks = [torch.tensor([*is_answer[1:], False]) for _, is_answer in dialogues]
        self._starts = [0, *accumulate(ids.numel() for ids in self._ids)]
        self._trained = [0, *accumulate(int(mask.sum()) for mask in self._masks)]
        if not self._trained[-1]:
            raise UserError("no dialogue has an answer to train on", "Name other data, or raise max_tokens.")
        settings = {**facts, "dtype": str(decoder.dtype).removeprefix("torch."), "dialogues": self._hash()}
        self._index = self._open(settings)
        self._layers: dict[int, Tensor] = {}  # files that are mapped already

    def fill(self, taps: Sequence[int]) -> None:
        """Run what is missing through the model.

        Args:
            taps: Layers whose entering rows are read; L means the rows after the last layer.
        """
        names = [LIKELY, *map(str, taps)]
        done: dict[str, int] = self._index["done"]
        first, count = min(done.get(name, 0) for name in names), len(self._ids)
        if first == count:
            return
        log.info(
            "%d dialogues of %d tokens run through the model once; %s go to %s",
            count - first,
            self._starts[-1] - self._starts[first],
            byte_size(self.size_bytes(taps)),
            self._folder,
        )
        with Wait("cache", self._starts[-1], "token", done=self._starts[first]) as wait:
            for place in range(first, count):
                self._run(place, taps)
                wait.add(self._ids[place].numel())
                if place + 1 == count or (place + 1) % _SAVE_EVERY == 0:
                    done |= {name: max(place + 1, done.get(name, 0)) for name in names}
                    write_text(self._folder / INDEX_FILE, json.dumps(self._index, indent=1) + "\n")

    def size_bytes(self, taps: Sequence[int]) -> int:
        """Room on disk of the rows of these layers and of the next tokens."""
        row = self._decoder.config.width * self._decoder.dtype.itemsize
        return self._starts[-1] * row * len(taps) + self._trained[-1] * (self._most * 6 + 4)

    def examples(self, taps: Sequence[int], head: DraftHead, seed: int) -> Iterator[Example]:
        """Endless epochs over the dialogues, each in another random order; determined by `seed`."""
        order = np.random.default_rng(seed)
        while True:
            for place in order.permutation(len(self._ids)):
                if self._masks[place].any():
                    yield partial(self._rows, int(place), taps, head)

    def _run(self, place: int, taps: Sequence[int]) -> None:
        device = self._decoder.device
        ids, mask = self._ids[place].to(device), self._masks[place].to(device)
        hidden, likely = target_pass(self._decoder, ids, mask, taps)
        start, end = self._starts[place : place + 2]
        for layer, values in hidden.items():
            self._layer(layer)[start:end] = values.cpu()
        start, end = self._trained[place : place + 2]
        for kept, fresh in zip(self._likely, (likely.ids, likely.probs, likely.entropy), strict=True):
            kept[start:end] = fresh.cpu()

    def _rows(self, place: int, taps: Sequence[int], head: DraftHead) -> TrainingRows:
        decoder = self._decoder
        start, end = self._starts[place : place + 2]
        hidden = {layer: self._layer(layer)[start:end].to(decoder.device) for layer in taps}
        start, end = self._trained[place : place + 2]
        ids, probs, entropy = (kept[start:end].to(decoder.device) for kept in self._likely)
        likely = LikelyTokens(ids.long(), probs.float(), entropy)
        tokens, mask = self._ids[place].to(decoder.device), self._masks[place].to(decoder.device)
        return TrainingRows(tokens, hidden, mask, likely, head, (tokens.numel(),))

    @property
    def _most(self) -> int:
        return min(LIKELIEST, self._decoder.config.vocab)

    def _layer(self, layer: int) -> Tensor:
        if layer not in self._layers:
            shape = (self._starts[-1], self._decoder.config.width)
            self._layers[layer] = array(self._folder / f"layer_{layer:03d}.bin", shape, self._decoder.dtype)
        return self._layers[layer]

    @cached_property
    def _likely(self) -> tuple[Tensor, Tensor, Tensor]:
        folder, count, most = self._folder, self._trained[-1], self._most
        return (
            array(folder / "likely_ids.bin", (count, most), torch.int32),
            array(folder / "likely_probs.bin", (count, most), torch.float16),
            array(folder / "entropy.bin", (count,), torch.float32),
        )

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for ids, mask in zip(self._ids, self._masks, strict=True):
            digest.update(ids.numpy().tobytes() + mask.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _open(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The index of the folder, or a new one."""
        path = self._folder / INDEX_FILE
        if not path.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            return {"settings": settings, "done": {}}
        mend = f"Delete {path}; the same command fills the folder again."
        index = read_object(path, mend)
        require_same_settings(self._folder, index.get("settings"), settings, "Set cache to another folder.")
        done, most = index.get("done"), len(self._ids)
        if not isinstance(done, dict) or not all(
            type(count) is int and 0 <= count <= most for count in done.values()
        ):
            raise UserError(f"{path} is damaged: done={done} of {most} dialogues", mend)
        return index
