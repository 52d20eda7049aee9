"""From rows to tokens: the head that drafts, and one sampler for target and draft distributions alike.

A small model with a large vocabulary spends a good part of a pass on its head, and a drafted token needs the
head once. Few tokens make up nearly all text, so drafting may choose from these alone (FR-Spec, arXiv
2502.14856). Verification always keeps the whole head: a token outside of the list is never drafted, yet may
be emitted, so the output is the model's own. Probabilities of a draft, and with them all confidences, are
those of a softmax over the list. The list is a JSON file that ``python -m bench.train.frequent_tokens`` makes
of a model's answers.

Shapes: R rows, N tokens to draft from, d width, V vocabulary.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.linear import Linear
from bench.runtime.transfer import upload

LEAST_TEMPERATURE = 1e-6
"""Lower temperatures than this are refused, except 0: logits divided by one can overflow."""

OUTSIDE = -1
"""The place of a token that is not in the list."""
COMMAND = "python -m bench.train.frequent_tokens"
"""Makes a list."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: Divides the logits; 0 is greedy.
        top_k: Keeps the k most likely tokens; 0 keeps all.
        top_p: Keeps the fewest most likely tokens whose probabilities add up to at least this; 1 keeps all.

    Raises:
        ValueError: If a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise ValueError(
                f"sampling.temperature must be 0 (greedy) or at least {LEAST_TEMPERATURE:g} and finite, "
                f"got {self.temperature}"
            )
        if self.top_k < 0:
            raise ValueError(f"sampling.top_k must be at least 0 (0 keeps all), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p must lie in (0, 1], got {self.top_p}")


class Sampler:
    """Picks tokens under one `Sampling`, with its own seeded generator.

    Args:
        sampling: Temperature and cuts.
        device: Device of the logits.
        seed: Of the generator; the same for every arm.

    Attributes:
        is_greedy: Whether tokens are the argmax, so that no random number is used.
        generator: The source of all random numbers; acceptance rules draw from it too.
    """

    def __init__(self, sampling: Sampling, device: torch.device, seed: int) -> None:
        self.sampling = sampling
        self.is_greedy = sampling.temperature == 0
        self.generator = torch.Generator(device).manual_seed(seed)
        self._peaks: list[Tensor] = []  # largest logit of every row of the target, not read until the end

    def probabilities(self, logits: Tensor) -> Tensor:
        """Distributions after temperature, top-k and top-p.

        Args:
            logits: Shape [R, V].

        Returns:
            Probabilities in at least fp32, shape [R, V]; one-hot at the argmax when greedy.
        """
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        if self.is_greedy:
            best = logits.argmax(dim=-1, keepdim=True)
            return torch.zeros_like(logits).scatter_(-1, best, 1.0)
        logits = logits / self.sampling.temperature
        return _top_p(_top_k(logits, self.sampling.top_k).softmax(dim=-1), self.sampling.top_p)

    def watch(self, logits: Tensor) -> None:
        """Remember whether these logits of the target [R, V] are finite, without waiting for the device."""
        self._peaks.append(logits.amax(dim=-1))

    def require_finite(self) -> None:
        """Refuse the answer if any row of the target's logits since the start held NaN or infinity.

        Called once per answer, after it is complete. A logit of minus infinity counts as a masked token.

        Raises:
            UserError: With what to check.
        """
        if self._peaks and not bool(torch.cat(self._peaks).isfinite().all()):
            raise UserError(
                "the target's logits are not finite (NaN or infinity)",
                "check the weights for NaN and infinity; if they are sound, float16 overflows: "
                "use runtime.dtype=bfloat16 or float32",
            )

    def pick(self, logits: Tensor) -> Tensor:
        """One token of the target per row of its logits [R, V], shape [R]: the argmax (lowest id on ties),
        or a draw.
        """
        self.watch(logits)
        if self.is_greedy:
            return logits.argmax(dim=-1)
        return self.draw(self.probabilities(logits))

    def draw(self, probs: Tensor) -> Tensor:
        """One token id per row of distributions [R, V] that `probabilities` returned, shape [R]."""
        return draw(probs, self.generator)


class DraftHead:
    """The head that drafts: final norm and LM head of a decoder, for some tokens or for all.

    Its logits have one column per token of the list, in the order of their ids, so that ties go to the lowest
    id as everywhere. Such a column is called a *place*.

    Args:
        decoder: Whose norm and head; its rows of the list are copied once, in 8 bits if it says so.
        ids: The tokens, in any order, shape [N], int64; None is the whole vocabulary without a copy.
        lm_head: A drafter's own, a row for each of `ids` in ascending order; None takes the decoder's.

    Attributes:
        lm_head: The LM head without the norm.
        size: Number of tokens (N).
        dtype: Of its weights.
        is_whole: Whether it is the decoder's own head.
    """

    def __init__(self, decoder: Decoder, ids: Tensor | None = None, lm_head: Linear | None = None) -> None:
        self._decoder = decoder
        self._vocabulary, self.dtype = decoder.config.vocab, decoder.dtype
        self._ids = None if ids is None else upload(ids.sort().values, decoder.device)
        self._places: Tensor | None = None
        self.is_whole = ids is None
        chosen = lm_head or (decoder.lm_head if self._ids is None else decoder.lm_head.rows(self._ids))
        self.lm_head = self._stored(chosen)
        self.size = self._vocabulary if ids is None else ids.numel()

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [R, N] of rows [R, d] before the final norm."""
        return self._decoder.head(hidden, self.lm_head)

    def tokens(self, places: Tensor) -> Tensor:
        """Token ids of places, any shape."""
        return places if self._ids is None else self._ids[places]

    def best(self, logits: Tensor, count: int) -> Tensor:
        """Ids of the `count` most likely tokens for each row of logits [..., N], shape [..., count]."""
        return self.tokens(logits.topk(count, dim=-1).indices)

    def spread(self, probs: Tensor) -> Tensor:
        """Distributions [R, N] over the whole vocabulary, shape [R, V]: zero outside of the list."""
        if self._ids is None:
            return probs
        return probs.new_zeros(probs.shape[0], self._vocabulary).index_copy_(1, self._ids, probs)

    def chances(self, probs: Tensor, tokens: Tensor) -> Tensor:
        """Probability of one token [R] by each distribution [R, N], shape [R]: zero outside of the list."""
        if self._ids is None:
            return probs.gather(1, tokens[:, None])[:, 0]
        places = self.places(tokens)
        return probs.gather(1, places.clamp_min(0)[:, None])[:, 0] * (places != OUTSIDE)

    def places(self, tokens: Tensor) -> Tensor:
        """Places of tokens, any shape; `OUTSIDE` for those outside of the list."""
        if self._ids is None:
            return tokens
        if self._places is None:
            places = torch.full((self._vocabulary,), OUTSIDE, dtype=torch.int64, device=self._ids.device)
            self._places = places.index_copy_(0, self._ids, torch.arange(self.size, device=places.device))
        return self._places[tokens]

    def another(self, weight: Tensor) -> Linear:
        """Another LM head, [V, d], for the same tokens and stored alike: N outputs."""
        return self._stored(Linear(weight if self._ids is None else weight[self._ids]))

    def _stored(self, lm_head: Linear) -> Linear:
        return lm_head.in_int8() if self._decoder.drafts_in_int8 else lm_head


@dataclass(frozen=True, slots=True)
class DraftVocab:
    """Which tokens a method may draft, as it is configured.

    Args:
        size: Number of tokens, ``method.draft_vocab``; None is the whole vocabulary.
        file: The model's tokens by frequency, ``method.frequent_tokens``; None if there is no list.

    Raises:
        ValueError: If `size` is below 1.
    """

    size: int | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"draft_vocab must be at least 1, or null for all tokens, got {self.size}")

    def head(self, decoder: Decoder, least: int = 1) -> DraftHead:
        """The head that drafts for `decoder`.

        Args:
            decoder: The target, or a drafter that shares its LM head.
            least: Tokens that the method must be able to choose from: the width of its tree.

        Raises:
            UserError: If there is no list, it does not fit the model, or it or `size` is too short.
        """
        if self.size is None:
            return DraftHead(decoder)
        if self.file is None:
            raise UserError(
                f"method.draft_vocab={self.size} needs a list of frequent tokens, and this model has none",
                f"make one of its answers: {COMMAND} model=... answers=FILE; set model.frequent_tokens=FILE",
            )
        ids = read_frequent_tokens(Path(self.file), decoder.config.vocab)
        if not least <= self.size <= len(ids):
            raise UserError(
                f"method.draft_vocab must lie in {least}..{len(ids)} here, got {self.size}: "
                f"{self.file} lists {len(ids)} tokens, and the draft needs {least} to choose from",
                f"set method.draft_vocab to such a number, or make a longer list: {COMMAND} length=...",
            )
        return DraftHead(decoder, torch.tensor(ids[: self.size]))


def read_frequent_tokens(file: Path, vocabulary: int) -> list[int]:
    """Token ids of a list, the most frequent first.

    Args:
        file: What `COMMAND` wrote.
        vocabulary: Tokens of the model's vocabulary (V).

    Raises:
        UserError: If there is no such list, or it is not one of this model's tokens.
    """
    fix = f"make the list of this model's tokens: {COMMAND} model=... answers=FILE"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        ids, known = [int(token) for token in content["ids"]], int(content["vocabulary"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is no list of frequent tokens ({type(error).__name__})", fix) from error
    if known != vocabulary or len(set(ids)) != len(ids) or not all(0 <= token < known for token in ids):
        raise UserError(
            f"{file} lists tokens of a vocabulary of {known}, the model has {vocabulary}"
            if known != vocabulary
            else f"{file} lists a token twice, or one beyond its vocabulary of {known}",
            fix,
        )
    return ids


def draw(probs: Tensor, generator: torch.Generator) -> Tensor:
    """One token id per row of `probs` [R, V], drawn by an exponential race, shape [R].

    argmax(p / e) with e ~ Exp(1) is distributed as p, and the host need not wait for the device.
    """
    noise = torch.empty_like(probs).exponential_(generator=generator)
    return (probs / noise.clamp_min_(torch.finfo(probs.dtype).tiny)).argmax(dim=-1)  # 0 / 0 would win


def _top_k(logits: Tensor, k: int) -> Tensor:
    """Logits with all but the `k` largest per row at minus infinity; ties at the border stay in."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], float("-inf"))


def _top_p(probs: Tensor, p: float) -> Tensor:
    """The fewest most likely tokens whose probabilities add up to at least `p`, renormalised."""
    if p >= 1:
        return probs
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # probability of all more likely tokens
    kept = ordered.masked_fill(before >= p, 0.0)
    kept = kept / kept.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, order, kept)
