"""HAMburger's trained parts in plain torch, the tuned model as a whole, and its loss (arXiv 2505.20438).

Tensor names are those of the authors' checkpoint, so that converting one of theirs renames nothing.

Differs from the authors' code in:
- the merger's output projection starts from zero, so that an untrained merge is the plain mean; theirs starts
  from noise;
- the masters are fp32, with warm-up of the learning rate.

Shapes: B answers, S cache entries of an answer and its prompt, N groups of all answers, K most tokens of a
group, M answer tokens, F features, d width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.families import DecoderConfig
from methods.hamburger.groups import Groups
from methods.hamburger.shape import HamburgerShape
from methods.training.low_rank import freeze
from methods.training.trained_layer import TrainedLayer, future_mask
from methods.training.trained_model import TrainedModel


class Merger(nn.Module):
    """The attention of the compositional embedder: one query, the mean, over the tokens of a group."""

    def __init__(self, width: int, max_group: int) -> None:
        super().__init__()
        self.pos = nn.Parameter(nn.init.xavier_normal_(torch.empty(max_group, width // 2)))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width + width // 2, width)
        self.v_proj = nn.Linear(width + width // 2, width)


class Embedder(nn.Module):
    """Compositional embedder: a group of token embeddings becomes the embedding of one entry."""

    def __init__(self, width: int, shape: HamburgerShape) -> None:
        super().__init__()
        self._heads = shape.merger_heads
        self.merger = Merger(width, shape.max_group)
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Tensor, sizes: Tensor) -> Tensor:
        """Merged embeddings, shape [N, d].

        Args:
            tokens: Embeddings of the groups' tokens, anything after a group's end, shape [N, K, d].
            sizes: Tokens of each group, at least 2, shape [N].
        """
        count, most, width = tokens.shape
        is_token = torch.arange(most, device=tokens.device) < sizes[:, None]  # [N, K]
        mean = (tokens * is_token[..., None]).sum(dim=1) / sizes[:, None]
        placed = torch.cat([tokens, self.merger.pos[:most].expand(count, -1, -1)], dim=-1)
        heads = (count, -1, self._heads, width // self._heads)
        query = self.merger.q_proj(mean).view(heads).transpose(1, 2)  # [N, heads, 1, width]
        keys, values = (proj(placed).view(heads).transpose(1, 2) for proj in self._key_value())
        scores = query @ keys.mT * (width // self._heads) ** -0.5  # [N, heads, 1, K]
        scores = scores.masked_fill(~is_token[:, None, None], float("-inf"))
        mixed = (scores.softmax(dim=-1).to(values.dtype) @ values).transpose(1, 2).reshape(count, width)
        return mean + self.out_proj(mixed)  # type: ignore[no-any-return]

    def _key_value(self) -> tuple[nn.Linear, nn.Linear]:
        return self.merger.k_proj, self.merger.v_proj


class MicroModule(nn.Module):
    """Micro-step decoder and stop head: layers like the model's own, without a final norm."""

    def __init__(self, config: DecoderConfig, shape: HamburgerShape) -> None:
        super().__init__()
        width, inner = config.width, shape.micro_config(config)
        self.decoders = nn.ModuleList(TrainedLayer(inner) for _ in range(shape.micro_layers))
        self.stop_head = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, features: Tensor, tokens: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Rows of every token after the layers, shape [N, T, d]; row i predicts the token after token i.

        Args:
            features: Features of each group, shape [N, F, d].
            tokens: Embeddings of its tokens, shape [N, T, d].
            rotation: Cosines and sines of at least F + T positions, each shape [>= F + T, 1, D].
        """
        hidden = torch.cat([features, tokens], dim=1)
        length = hidden.shape[1]
        cos, sin = (table[:length][None].float() for table in rotation)
        future = future_mask(length, hidden.device)
        for layer in self.decoders:
            hidden = layer(hidden, cos, sin, future)
        return hidden[:, features.shape[1] :]


class HamburgerModel(nn.Module):
    """The tuned model: base, compositional embedder, micro-step decoder, all trained together.

    Of a base with low-rank changes, only these are trained.
    """

    def __init__(self, config: DecoderConfig, shape: HamburgerShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = TrainedModel(config)
        self.comp_embedder = Embedder(config.width, shape)
        self.micro_step_decoder = MicroModule(config, shape)

    @classmethod
    def from_decoder(cls, decoder: Decoder, shape: HamburgerShape) -> HamburgerModel:
        """Start from a decoder's weights, the new parts freshly initialised.

        With a rank, the base is frozen, and its layers learn low-rank changes.
        """
        model = cls(decoder.config, shape)
        model.model.copy_weights(decoder)
        if shape.rank is not None:
            model.model.requires_grad_(False)
            freeze(model.model.model.layers, shape.rank)
        return model.to(decoder.device)

    @property
    def lm_head(self) -> Tensor:
        """Weight of the LM head, shape [V, d]."""
        return self.model.head

    def forward(self, groups: Groups, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """The row that predicts each token of each group, shape [N, K, d]; noise after a group's end.

        Args:
            groups: The batch.
            rotation: Rotary cosines and sines of every position, each shape [positions, 1, D].
        """
        features = self._features(groups, rotation)  # [N, F, d]
        rows = features.new_zeros(*groups.targets.shape, features.shape[-1])
        rows[:, 0] = features[:, -1]
        several = (groups.target_sizes > 1).nonzero().squeeze(1)
        if several.numel():
            tokens = self.model.model.embed_tokens(groups.targets[several, :-1])
            micro = self.micro_step_decoder(features[several], tokens, rotation)
            rows[several, 1:] = micro.to(rows.dtype)
        return rows

    def _features(self, groups: Groups, rotation: tuple[Tensor, Tensor]) -> Tensor:
        inner = self.model.model
        hidden = self._embed(groups)
        cos, sin = (table[groups.positions].float() for table in rotation)  # [B, S, 1, D]
        future = future_mask(hidden.shape[1], hidden.device)
        features = []
        for index, layer in enumerate(inner.layers):
            hidden = layer(hidden, cos, sin, future)
            if index in self.shape.feature_layers:
                features.append(hidden.flatten(0, 1)[groups.reads])
        features[-1] = inner.norm(features[-1])
        return torch.stack(features, dim=1)

    def _embed(self, groups: Groups) -> Tensor:
        """Rows entering layer 0, shape [B, S, d]."""
        embedding = self.model.model.embed_tokens
        hidden = embedding(groups.tokens[..., 0])
        merged = groups.sizes > 1
        if not merged.any():
            return hidden  # type: ignore[no-any-return]
        rows = self.comp_embedder(embedding(groups.tokens[merged]), groups.sizes[merged])
        return hidden.masked_scatter(merged[..., None], rows.to(hidden.dtype))  # type: ignore[no-any-return]


def joint_loss(
    model: HamburgerModel,
    groups: Groups,
    rotation: tuple[Tensor, Tensor],
    stop_weight: float,
    labels: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Token cross-entropy plus weighted stop loss, each averaged over the batch's tokens (section 3.3).

    Also logged: ``ce`` against the text's tokens, ``stop`` the stop loss, ``stop_right`` how often the
    stop head decides as labelled at 0.5, ``top1`` how often the token is the first choice.

    Args:
        model: What is trained.
        groups: The batch.
        rotation: See `HamburgerModel.forward`.
        stop_weight: Of the stop head's loss.
        labels: Distribution that each token is learned as, shape [M, V]; None takes the text's tokens.
    """
    rows = model(groups, rotation)
    is_token, tokens = groups.is_token, groups.labels
    states = rows[is_token]
    logits = F.linear(states, model.lm_head).float()
    token_loss = F.cross_entropy(logits, tokens if labels is None else labels)
    known = groups.is_labelled[:, None].expand_as(is_token)[is_token]
    places = torch.arange(is_token.shape[1], device=rows.device)
    is_last = (places == groups.target_sizes[:, None] - 1)[is_token][known].float()
    guess = model.micro_step_decoder.stop_head(states[known]).float().squeeze(-1)
    stop = F.binary_cross_entropy_with_logits(guess, is_last) if known.any() else token_loss.new_zeros(())
    with torch.no_grad():
        right = ((guess > 0) == (is_last > 0)).float().mean() if known.any() else stop
        text_loss = token_loss if labels is None else F.cross_entropy(logits, tokens)
        top1 = (logits.argmax(dim=-1) == tokens).float().mean()
    loss = token_loss + stop_weight * stop
    return loss, {
        "loss": loss.detach(),
        "ce": text_loss.detach(),
        "stop": stop.detach(),
        "stop_right": right,
        "top1": top1,
    }
