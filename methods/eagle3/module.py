"""EAGLE-3's drafter in training, arXiv 2503.01840 (section 3.1, "training-time test"); draft.py decodes.

The drafter is unrolled for several steps over whole dialogues. In step 0 every row reads the target's hidden
rows; in each later step it reads what it put out in the step before, as in a draft. Row j of step i looks at
the rows up to j of step 0 and at its own of the later steps, which is what its cache would hold.

Differs from the authors' code in:
- the layer starts as the target's last one, on the deepest of the three rows and with nothing from the
  embeddings (there, it starts at random), so that it needs fewer steps;
- the loss reads the target's 64 likeliest tokens (there, its distribution over the draft vocabulary), and
  counts positions whose likeliest token cannot be drafted too.

Shapes: T positions of all dialogues of a batch, S of one dialogue, M trained ones, d width, H heads, D head
width, N tokens that may be drafted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.families import DecoderConfig
from bench.runtime.rows import rotate
from bench.runtime.sampling import DraftHead, DraftVocab
from methods.eagle3.draft import Training, default_taps
from methods.eagle3.layer import Layout
from methods.training.distillation import draft_logits, soft_cross_entropy
from methods.training.rows import TrainingRows
from methods.training.trained_layer import future_mask, layer_state

DECAY = 0.8
"""Step i weighs ``DECAY ** i`` in the loss."""


class Eagle3Trainer:
    """Trains a drafter; see `methods.core.base.ModuleTrainer`.

    Args:
        name: Of the method, as stored with the weights.
        vocab: Tokens that the drafter's head knows.
        training: Steps and sizes.
    """

    def __init__(self, name: str, vocab: DraftVocab, training: Training) -> None:
        self._name, self._vocab, self._training = name, vocab, training

    def new_module(self, decoder: Decoder) -> nn.Module:
        head = self._vocab.head(decoder)
        config = self._shape(decoder)
        module = TrainedDrafter(config, head if self._training.own_lm_head else None)
        module.start_from(decoder)
        return module

    def taps(self, decoder: Decoder) -> tuple[int, ...]:
        return tuple(sorted(set(default_taps(decoder.depth))))

    def provenance(self, decoder: Decoder) -> dict[str, Any]:
        head = self._vocab.head(decoder)
        ids = None if head.is_whole else head.tokens(torch.arange(head.size, device=decoder.device)).tolist()
        layout = Layout(
            default_taps(decoder.depth),
            self._shape(decoder).mlp_width,
            None if ids is None else tuple(ids),
            has_head=self._training.own_lm_head,
        )
        return {"method": self._name, **layout.facts(), "unroll": self._training.unroll}

    def _shape(self, decoder: Decoder) -> DecoderConfig:
        """The target's shape with the width of the drafter's MLP."""
        return replace(decoder.config, mlp_width=self._training.mlp_width or decoder.config.mlp_width)

    def loss(
        self, module: nn.Module, rows: TrainingRows, decoder: Decoder
    ) -> tuple[Tensor, dict[str, float]]:
        """Sum over steps of ``DECAY ** i`` times the soft cross-entropy with the target, on answer positions.

        Also logged: ``accept_i`` and ``top1_i``, the expected acceptance and the agreement of step i.
        """
        taps = torch.cat([rows.hidden[layer] for layer in default_taps(decoder.depth)], dim=1).float()
        drafter: Any = module
        total, figures = taps.new_zeros(()), dict[str, float]()
        order = rows.mask.cumsum(0) - 1  # of a trained position among all trained ones
        for step, hidden in enumerate(drafter.steps(taps, rows, decoder, self._training.unroll)):
            # Row j of step i predicts the token after position j + 1 + i of its dialogue.
            places = (rows.mask & (rows.positions > step)).nonzero()[:, 0]
            likely = rows.likely[order[places]]
            logits = _logits(drafter, hidden[places - 1 - step], rows.head)
            loss, shares = soft_cross_entropy(logits, likely, rows.head.places(likely.ids))
            total = total + DECAY**step * loss
            figures |= {f"{key}_{step}": value for key, value in shares.items()}
        return total, figures


def _logits(drafter: Any, hidden: Tensor, head: DraftHead) -> Tensor:  # noqa: ANN401 - a `TrainedDrafter`
    """Logits [M, N] of rows [M, d] that leave the layer, by the drafter's own LM head or the target's."""
    normed = drafter.norm(hidden)
    return draft_logits(normed, head) if drafter.lm_head is None else drafter.lm_head(normed)


def _strongest(layer: Mapping[str, Tensor], count: int) -> Tensor:
    """The units of a layer's MLP whose weights in and out are largest, in order, int64."""
    strength = layer["mlp.up_proj.weight"].norm(dim=1) * layer["mlp.down_proj.weight"].norm(dim=0)
    units: Tensor = strength.topk(min(count, len(strength))).indices.sort().values
    return units


class TrainedDrafter(nn.Module):
    """The drafter with gradients; its tensors have the names of the authors' files.

    Args:
        config: Shape of the target, with the width of the drafter's MLP.
        head: The target's head for the tokens that may be drafted, to start an own one from; None for none.
    """

    def __init__(self, config: DecoderConfig, head: DraftHead | None) -> None:
        super().__init__()
        self._config = config
        width, heads, inner = config.width, config.heads * config.head_dim, config.mlp_width
        keys = config.kv_heads * config.head_dim
        layer = nn.Module()
        layer.input_layernorm = nn.RMSNorm(width, config.norm_eps)
        layer.hidden_norm = nn.RMSNorm(width, config.norm_eps)
        layer.post_attention_layernorm = nn.RMSNorm(width, config.norm_eps)
        layer.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(2 * width, heads, bias=False),
                "k_proj": nn.Linear(2 * width, keys, bias=False),
                "v_proj": nn.Linear(2 * width, keys, bias=False),
                "o_proj": nn.Linear(heads, width, bias=False),
            }
        )
        layer.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, inner, bias=False),
                "up_proj": nn.Linear(width, inner, bias=False),
                "down_proj": nn.Linear(inner, width, bias=False),
            }
        )
        self.midlayer: Any = layer
        self.fc = nn.Linear(3 * width, width, bias=False)
        self.norm = nn.RMSNorm(width, config.norm_eps)
        self.lm_head = None if head is None else nn.Linear(width, head.size, bias=False)
        if self.lm_head is not None and head is not None:
            self.lm_head.weight.data.copy_(head.lm_head.weight)

    def start_from(self, decoder: Decoder) -> None:
        """Begin as the target's last layer on the deepest tapped row, its head's norm included."""
        config, width = self._config, self._config.width
        last = layer_state(decoder.layers[-1], decoder.config)
        with torch.no_grad():
            for name in ("q_proj", "k_proj", "v_proj"):
                weight = self.midlayer.self_attn[name].weight
                weight.zero_()
                weight[:, width:] = last[f"self_attn.{name}.weight"]
            self.midlayer.self_attn["o_proj"].weight.copy_(last["self_attn.o_proj.weight"])
            units = _strongest(last, config.mlp_width)
            for name in ("gate_proj", "up_proj"):
                self.midlayer.mlp[name].weight.copy_(last[f"mlp.{name}.weight"][units])
            self.midlayer.mlp["down_proj"].weight.copy_(last["mlp.down_proj.weight"][:, units])
            self.midlayer.hidden_norm.weight.copy_(last["input_layernorm.weight"])
            self.midlayer.post_attention_layernorm.weight.copy_(last["post_attention_layernorm.weight"])
            self.norm.weight.copy_(decoder.final_norm)
            self.fc.weight.zero_()
            self.fc.weight[:, 2 * width :] = torch.eye(width)

    def steps(self, taps: Tensor, rows: TrainingRows, decoder: Decoder, unroll: int) -> Iterator[Tensor]:
        """Rows leaving the layer in every step, each shape [T, d].

        Args:
            taps: The target's rows at the three depths side by side, shape [T, 3 d].
            rows: The dialogues.
            decoder: The target, whose embedding and angles are used.
            unroll: Steps.
        """
        hidden = self.fc(taps)
        tables = decoder.placement.rotation(0, max(rows.lengths))
        earlier = [list[tuple[Tensor, Tensor]]() for _ in rows.lengths]  # keys and values of the steps so far
        for step in range(unroll):
            # Row j reads the token after position j + step; rows for which there is none are not used.
            ids = torch.cat([part.roll(-1 - step) for part in torch.split(rows.ids, list(rows.lengths))])
            places = (torch.arange(len(tables[0])) + step).clamp_max(len(tables[0]) - 1)
            turned = tuple(table[places].float() for table in tables)
            hidden = self._layer(decoder.embed(ids).float(), hidden, rows.lengths, turned, earlier)
            yield hidden

    def _layer(
        self,
        embedded: Tensor,
        hidden: Tensor,
        lengths: Sequence[int],
        tables: tuple[Tensor, ...],
        earlier: list[list[tuple[Tensor, Tensor]]],
    ) -> Tensor:
        layer, config = self.midlayer, self._config
        both = torch.cat([layer.input_layernorm(embedded), layer.hidden_norm(hidden)], dim=1)
        queries, keys, values = (
            layer.self_attn[name](both).unflatten(1, (-1, config.head_dim)).split(list(lengths))
            for name in ("q_proj", "k_proj", "v_proj")
        )
        parts = zip(queries, keys, values, earlier, strict=True)
        mixed = [self._attend(query, key, value, tables, seen) for query, key, value, seen in parts]
        hidden = hidden + layer.self_attn["o_proj"](torch.cat(mixed))
        normed = layer.post_attention_layernorm(hidden)
        inner = F.silu(layer.mlp["gate_proj"](normed)) * layer.mlp["up_proj"](normed)
        return hidden + layer.mlp["down_proj"](inner)  # type: ignore[no-any-return]

    def _attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        tables: tuple[Tensor, ...],
        earlier: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Attention within one dialogue, shape [S, H D]; keys and values are added to `earlier`."""
        count, groups = queries.shape[0], self._config.heads // self._config.kv_heads
        cos, sin = (table[:count] for table in tables)
        turned = rotate(queries, cos, sin).transpose(0, 1)  # [H, S, D]
        keys, values = (
            part.repeat_interleave(groups, dim=1).transpose(0, 1) for part in (rotate(keys, cos, sin), values)
        )
        earlier.append((keys, values))
        (first_keys, first_values), *later = earlier
        scores = [turned @ first_keys.mT + future_mask(count, turned.device)]
        scores += [(turned * own).sum(-1, keepdim=True) for own, _ in later]  # of later steps its own row
        shares = (torch.cat(scores, dim=-1) * self._config.head_dim**-0.5).softmax(dim=-1)  # [H, S, S + step]
        mixed: Tensor = shares[..., :count] @ first_values
        for place, (_, own) in enumerate(later):
            mixed = mixed + shares[..., count + place, None] * own
        return mixed.transpose(0, 1).flatten(1)
