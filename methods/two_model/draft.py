"""Speculative decoding with a second, smaller model: arXiv 2211.17192 (section 2) and 2302.01318.

A draft model of the same tokenizer, with keys and values of its own, drafts a chain; the target verifies it
in one pass. It is the reference that self-speculation does without: the draft model is whatever checkpoint of
that tokenizer there is. Where there is none, as for the embedded model, ``python -m bench.train`` makes one.

Draft length as Spec-Bench runs it: transformers' heuristic from 5 tokens on (specs/spec-bench.md section 9);
the papers' constant length is ``policy=static``.

Differs from transformers' assisted generation in:
- the draft model has a prefill of its own over the whole prompt, timed with the target's;
- the draft never exceeds the remaining budget, and the heuristic begins anew with every prompt;
- the draft samples under the target's sampler, temperature and cuts alike.

Shapes: P prompt tokens, T positions, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.gguf import is_gguf
from bench.runtime.loading import RuntimeOptions, build_decoder, load_decoder
from bench.runtime.modules import WEIGHTS_FILE, load_provenance
from bench.runtime.sampling import Sampler
from methods.core.base import TrainingRows
from methods.core.chain import Draft, DraftBuilder, is_unsure
from methods.early_exit.adaptive_chain import AdaptiveChain
from methods.training.distillation import soft_cross_entropy

HEAD_WIDTH = 32
"""Of the heads of a draft model trained here."""


class TwoModel(AdaptiveChain):
    """Chain drafting by a second decoder.

    Args:
        weights: Folder of the draft model: a checkpoint, or what ``bench.train`` wrote; None to train one.
        draft_length: Tokens drafted per round (gamma); where the policy adapts it, at first or at most.
        policy: One of `methods.early_exit.draft_length.POLICIES`.
        threshold: Confidence below which the policies ``threshold``, ``dv`` and ``self_sd`` end a draft, at
            first.
        target: Acceptance that ``dv`` and ``self_sd`` steer to.
        layers: Of a draft model to train.
        width: Likewise, a multiple of `HEAD_WIDTH`.
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
                f"need at least 1 layer and a width that {HEAD_WIDTH} divides, got {layers} and {width}"
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
        """Bind to a target with the draft model at hand."""
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
        self._read, self._drafted = torch.cat([root, draft.tokens]), draft.tokens.numel()
        return draft

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._decoder.step(self._read, base)

    def commit(self, emitted: Tensor, base: int) -> None:
        """Drop what was rejected; committed tokens that the draft model has not read wait for its next pass.

        Behind a fully accepted draft that is the last drafted one, which nothing was drafted from.
        """
        self._drafter.cache.truncate(base + emitted.numel())
        self._unread = self._read[: emitted.numel()][self._drafter.cache.length - base :]
        self._policy.observe(emitted.numel() - 1, self._drafted)

    # -- training --------------------------------------------------------------------------------------------

    def new_module(self, decoder: Decoder) -> nn.Module:
        module = DraftModel(LlamaConfig(**self._shape(decoder)))
        module.take_directions(decoder.embedding)
        return module

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return (decoder.depth,)

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        return {"method": self.name, "shape": self._shape(decoder)}

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Soft cross-entropy against the target, temperature 1, on answer positions."""
        target = decoder.head(rows.hidden[decoder.depth][rows.mask]).float().softmax(dim=-1)
        return soft_cross_entropy(module(rows.ids)[rows.mask], target)

    def _shape(self, decoder: Decoder) -> dict[str, Any]:
        """A Llama of the configured size that speaks the target's vocabulary, as far as it reaches."""
        return {
            "vocab_size": decoder.config.vocab,
            "hidden_size": self._width,
            "intermediate_size": 8 * self._width // 3,
            "num_hidden_layers": self._layers,
            "num_attention_heads": self._width // HEAD_WIDTH,
            "max_position_embeddings": decoder.config.context,
            "tie_word_embeddings": True,
            "architectures": ["LlamaForCausalLM"],
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        }


class DraftModel(nn.Module):
    """A small Llama with a tied head; tensor names are those of an ordinary checkpoint."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaModel(config)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [T, V] of a whole text [T]."""
        rows = self.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        return F.linear(rows, self.model.embed_tokens.weight)

    @torch.no_grad()
    def take_directions(self, embedding: Tensor) -> None:
        """Begin with the principal directions of the target's embedding [V, D]: which tokens are alike."""
        table = self.model.embed_tokens.weight  # [V, d]
        left, sizes, _ = torch.linalg.svd(embedding.float(), full_matrices=False)
        count = min(table.shape[1], sizes.numel())
        table[:, :count] = left[:, :count] * sizes[:count]


def load_draft_model(folder: Path, target: Decoder) -> Decoder:
    """The draft model in `folder`, on the target's device, in its precision and for as long sequences.

    Args:
        folder: A checkpoint, a GGUF file, or a module that ``bench.train`` wrote.
        target: What it will draft for.

    Raises:
        UserError: If it cannot be loaded, speaks another vocabulary or holds shorter sequences.
    """
    options = RuntimeOptions(target.device, target.dtype, target.capacity, target.tier)
    is_checkpoint = (folder / "config.json").is_file() or is_gguf(folder)
    drafter = load_decoder(folder, options) if is_checkpoint else _trained(folder, options)
    target.adopt(drafter)
    tokens, wanted = drafter.config.vocab, target.config.vocab
    if tokens != wanted:
        raise UserError(
            f"the draft model in {folder} has {tokens} tokens in its vocabulary, the target {wanted}",
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
    found = load_file(folder / WEIGHTS_FILE, device=str(options.device))
    tensors = {name: tensor.to(options.dtype) for name, tensor in found.items()}
    return build_decoder(LlamaConfig(**shape), tensors, options)
