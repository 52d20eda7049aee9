"""Speculative decoding with a second, smaller model: arXiv 2211.17192 (section 2) and 2302.01318.

A draft model with the target's tokenizer and a cache of its own drafts a chain; the target verifies it in one
pass. Not self-speculation, but the reference for it. The draft model can be any checkpoint with that
tokenizer; if there is none, as for the embedded model, ``python -m bench.train`` trains one
(`methods.two_model.module`).

Draft length as Spec-Bench runs it: transformers' heuristic, starting at 5 tokens; the papers' constant length
is ``policy=static``.

Differs from transformers' assisted generation in:
- the draft model has a prefill of its own over the whole prompt, timed with the target's;
- the draft never exceeds the remaining budget, and the heuristic starts anew with every prompt;
- rows of padding after the tokenizer's last token may differ in number, and are then cut or never chosen;
- the draft is sampled by the target's sampler, with its temperature and cuts.

Shapes: P prompt tokens, K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import LlamaConfig

from bench.errors import UserError
from bench.runtime.checkpoint_files import is_gguf, read_json
from bench.runtime.decoder import Decoder
from bench.runtime.gguf import gguf_tokens, read_gguf
from bench.runtime.loading import RuntimeOptions, build_decoder, load_config, load_decoder
from bench.runtime.model_config import decoder_config, require_fields
from bench.runtime.modules import PROVENANCE_FILE, WEIGHTS_FILE, load_provenance
from bench.runtime.sampling import Sampler
from bench.runtime.stored_tensors import read_file, usable
from methods.core.base import ModuleTrainer
from methods.core.chain import Draft, DraftBuilder, is_unsure
from methods.core.draft_length import AdaptiveChain

_TOKENIZER_FILE = "tokenizer.json"
HEAD_WIDTH = 32
"""Width of each attention head of a draft model trained here."""


class TwoModel(AdaptiveChain):
    """Chain drafting by a second decoder.

    Args:
        weights: Folder of the draft model: a checkpoint, or what ``bench.train`` wrote; None to train one.
        draft_length: Tokens drafted per round (gamma); where the policy adapts it, at first or at most.
        policy: One of `methods.core.draft_length.POLICIES`.
        threshold: Confidence below which the policies ``threshold``, ``dv`` and ``self_sd`` end a draft, at
            first.
        target: Acceptance that ``dv`` and ``self_sd`` aim at.
        layers: Layers of a draft model to train.
        width: Its width, a multiple of `HEAD_WIDTH`.
    """

    name = "two_model"

    def __init__(
        self,
        *,
        weights: str | None,
        draft_length: int,
        policy: str,
        threshold: float,
        target: float,
        layers: int,
        width: int,
    ) -> None:
        if layers < 1 or width < HEAD_WIDTH or width % HEAD_WIDTH:
            raise ValueError(
                f"need layers of at least 1 and a multiple of {HEAD_WIDTH} as width, got {layers} and {width}"
            )
        super().__init__(policy, draft_length, threshold, target)
        self._weights = None if weights is None else Path(weights).expanduser()
        self._layers, self._width = layers, width

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "two_model needs a draft model and method.weights is not set",
                "set method.weights to the folder of a smaller checkpoint with the same tokenizer",
            )
        self.use(decoder, load_draft_model(self._weights, decoder))

    def use(self, decoder: Decoder, drafter: Decoder) -> None:
        """Bind to a target, with the draft model given."""
        self._decoder, self._drafter = decoder, drafter
        self.reset()

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._policy.start()
        self._drafter.prefill(prompt_ids)  # only for its keys and values
        self._unread = prompt_ids[:0]
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        drafter, threshold = self._drafter, self._policy.threshold
        chain = DraftBuilder(root, self._policy.limit, room)
        unread, stop = torch.cat([self._unread, root]), None
        while chain.has_room and stop is None:
            logits = drafter.step(unread, drafter.cache.length)[-1:]
            unread = chain.propose(logits, sampler)
            if is_unsure(logits, threshold):
                stop = "confidence"
        draft = chain.finish(stop)
        self._verified, self._drafted = torch.cat([root, draft.tokens]), draft.tokens.numel()
        return draft

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        """Run root and draft through the target."""
        return self._decoder.step(self._verified, base)

    def commit(self, emitted: Tensor, base: int) -> None:
        """Drop the rejected tokens; emitted ones that the draft model has not read go into its next pass.

        After a fully accepted draft that is the last drafted token, since nothing was drafted after it.
        """
        self._drafter.cache.truncate(base + emitted.numel())
        self._unread = self._verified[: emitted.numel()][self._drafter.cache.length - base :]
        self._policy.observe(emitted.numel() - 1, self._drafted)

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.two_model.module import TwoModelTrainer

        return TwoModelTrainer(self.name, self._layers, self._width)


def load_draft_model(folder: Path, target: Decoder) -> Decoder:
    """Load the draft model in `folder` with the target's device, precision and cache capacity.

    Args:
        folder: A checkpoint, a GGUF file, or a module that ``bench.train`` wrote.
        target: The model it will draft for.

    Raises:
        UserError: If it cannot be loaded, has another vocabulary or a shorter context.
    """
    options = RuntimeOptions(target.device, target.dtype, target.capacity, target.tier)
    is_checkpoint = (folder / "config.json").is_file() or is_gguf(folder)
    rows = _rows(folder, target.config.vocab) if is_checkpoint else None
    drafter = load_decoder(folder, options, rows) if is_checkpoint else _trained(folder, options)
    target.adopt(drafter)
    if drafter.config.vocab != target.config.vocab:
        raise UserError(
            f"the draft model in {folder} has {drafter.config.vocab} tokens in its vocabulary, "
            f"the target {target.config.vocab}",
            "set method.weights to a model with the target's tokenizer",
        )
    if drafter.capacity < target.capacity:
        raise UserError(
            f"the draft model in {folder} holds {drafter.capacity} tokens, the target {target.capacity}",
            f"set runtime.max_length={drafter.capacity}",
        )
    return drafter


def _rows(folder: Path, needed: int) -> int | None:
    """Rows of the target's vocabulary, if those of the draft model differ by padding only; else None.

    Qwen2.5 0.5B has 151,936 rows, 7B has 152,064, and their tokenizer 151,665 tokens. The rows after the
    tokenizer's last token are padding, which no text contains.
    """
    if is_gguf(folder):
        tokens = gguf_tokens(read_gguf(folder))
    elif (folder / _TOKENIZER_FILE).is_file():
        tokens = tokenizer_size(folder / _TOKENIZER_FILE)
    else:
        return None
    own = decoder_config(load_config(folder)).vocab
    return needed if tokens is not None and tokens <= min(own, needed) else None


def _trained(folder: Path, options: RuntimeOptions) -> Decoder:
    shape = load_provenance(folder, TwoModel.name).get("shape")
    try:
        require_fields(shape or {}, f"{folder / PROVENANCE_FILE}: shape")
        config = LlamaConfig(**(shape or {}))
    except (StrictDataclassError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / PROVENANCE_FILE}: shape cannot be used: {str(error).splitlines()[0]}",
            "train the draft model again: python -m bench.train method=two_model model=...",
        ) from error
    file = folder / WEIGHTS_FILE
    return build_decoder(config, usable(read_file(file), file, options.device, options.dtype), options)


def tokenizer_size(file: Path) -> int | None:
    """Tokens of a tokenizer by its ``tokenizer.json``: the highest id plus one; None if it does not say.

    Raises:
        UserError: If the file is damaged.
    """
    content = read_json(file)
    model, added = content.get("model"), content.get("added_tokens") or []
    words = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(words, dict | list) or not isinstance(added, list):
        return None
    ids = list(words.values()) if isinstance(words, dict) else [len(words) - 1]
    ids += [entry.get("id") for entry in added if isinstance(entry, dict)]
    return 1 + max(ids) if ids and all(isinstance(token, int) for token in ids) else None
