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
- the draft is sampled by the target's sampler, with its temperature and cuts.

Shapes: P prompt tokens, K drafted tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.hub import is_gguf
from bench.runtime.loading import RuntimeOptions, build_decoder, load_decoder
from bench.runtime.modules import WEIGHTS_FILE, load_provenance
from bench.runtime.sampling import Sampler
from methods.core.base import ModuleTrainer
from methods.core.chain import Draft, DraftBuilder, is_unsure
from methods.core.draft_length import AdaptiveChain

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
    drafter = load_decoder(folder, options) if is_checkpoint else _trained(folder, options)
    target.adopt(drafter)
    own, needed = drafter.config.vocab, target.config.vocab
    if own != needed:
        raise UserError(
            f"the draft model in {folder} has {own} tokens in its vocabulary, the target {needed}",
            "set method.weights to a model with the target's tokenizer",
        )
    if drafter.capacity < target.capacity:
        raise UserError(
            f"the draft model in {folder} holds {drafter.capacity} tokens, the target {target.capacity}",
            f"set runtime.max_length={drafter.capacity}",
        )
    return drafter


def _trained(folder: Path, options: RuntimeOptions) -> Decoder:
    shape = load_provenance(folder, TwoModel.name)["shape"]
    stored = load_file(folder / WEIGHTS_FILE, device=str(options.device))
    tensors = {name: tensor.to(options.dtype) for name, tensor in stored.items()}
    return build_decoder(LlamaConfig(**shape), tensors, options)
