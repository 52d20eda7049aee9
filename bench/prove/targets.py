"""What methods are proved on: a model in some precision with prompts and its own greedy answers.

Random models are narrow and their layers change little, so that drafts from the first layers are often right:
a proof in which nothing is accepted proves little.

Shapes: P prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    OlmoeConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from bench.compose.schema import ModelConfig
from bench.errors import UserError
from bench.prove.oracle import Oracle
from bench.records.model import Generation
from bench.runtime.checkpoint_files import resolve
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.loading import RuntimeOptions, build_decoder, load_config, load_decoder
from bench.runtime.model_config import decoder_config
from bench.runtime.sampling import Sampler, Sampling
from bench.tasks.chat import ChatFormat
from bench.tasks.spec_bench import read_builtin
from bench.tasks.tokenizer import eos_ids, load_tokenizer
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, Method, NoClock

FAMILIES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "mistral, window 9": (MistralConfig, {"sliding_window": 9}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "phi3": (Phi3Config, {}),
    "gemma": (GemmaConfig, {"head_dim": 8, "tie_word_embeddings": True}),
}
"""A random model of each: all with grouped heads; window; biases; query and key norms; fused; tied."""

SPARSE = "olmoe"
"""A family with mixtures of experts, for methods that refuse all others."""
_SPARSE_MODEL = (OlmoeConfig, {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True})

CONTEXT = 128
SCRATCH = 256
"""Cache slots beyond prompt and answer: draft trees need some."""
VOCABULARY = 96
PROMPT_LENGTHS = (1, 2, 17)
QUIET = 0.2
"""Scale of what the layers of a random model add to the residual stream."""


@dataclass(frozen=True)
class Target:
    """A model to prove a method on.

    Args:
        name: What a certificate calls it.
        decoder: The model.
        prompts: Token ids, each of shape [P].
        budget: When an answer ends.
        oracle: The same weights in an independent implementation; None where there is none.
    """

    name: str
    decoder: Decoder
    prompts: tuple[Tensor, ...]
    budget: Budget
    oracle: Oracle | None = None

    @cached_property
    def answers(self) -> tuple[tuple[int, ...], ...]:
        """The model's own greedy answers, decoded once for all methods."""
        baseline = Autoregressive()
        baseline.attach(self.decoder)
        greedy = Sampler(Sampling(), self.decoder.device, 0)
        return tuple(decode(baseline, prompt, self.budget, greedy).ids for prompt in self.prompts)


@torch.inference_mode()
def decode(method: Method, prompt: Tensor, budget: Budget, sampler: Sampler) -> Generation:
    """One answer, cut as the harness cuts it."""
    return method.generate(prompt, budget, sampler, NoClock()).cut(budget.max_new_tokens, budget.eos_ids)


def on_tier(options: RuntimeOptions, tier: Tier) -> RuntimeOptions:
    """The options on another tier; compiled passes alone can round the head that drafts."""
    return replace(options, tier=tier, drafts_in_int8=options.drafts_in_int8 and tier == "compiled")


def model_target(name: str, model: ModelConfig, options: RuntimeOptions, *, count: int, new: int) -> Target:
    """A checkpoint with built-in prompts, spread over all subtasks.

    Raises:
        UserError: If it cannot be loaded, or its context does not hold the prompts.
    """
    path = resolve(model.path, model.revision)
    tokenizer = load_tokenizer(path)
    chat, questions = ChatFormat(tokenizer, model.template), read_builtin().prompts
    chosen = [questions[index * len(questions) // count] for index in range(min(count, len(questions)))]
    ids = [chat.prompt_ids(question.turns[:1], ()) for question in chosen]
    length = max(map(len, ids)) + new + SCRATCH
    options = _runnable(replace(options, max_length=min(options.max_length, length)), load_config(path))
    decoder = load_decoder(path, options)
    room = decoder.capacity - max(map(len, ids))
    if room < 2:
        raise UserError(
            f"the longest prompt has {max(map(len, ids))} tokens, the context holds {decoder.capacity}",
            "prove with fewer prompts (prompts=1), or another model",
        )
    prompts = tuple(torch.tensor(prompt, device=options.device) for prompt in ids)
    ends = eos_ids(path, tokenizer, model.stop_ids)
    return Target(name, decoder, prompts, Budget(min(new, room), ends))


def random_target(family: str, depth: int, options: RuntimeOptions, *, new: int, seed: int) -> Target:
    """A random model of a family with random prompts of a few lengths; nothing ends an answer early."""
    model = random_model(family, depth, options, vocabulary=VOCABULARY, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    prompts = tuple(
        torch.randint(VOCABULARY, (length,), generator=generator).to(options.device)
        for length in PROMPT_LENGTHS
    )
    return Target(
        f"random {family} of {depth} layers",
        as_decoder(model, options),
        prompts,
        Budget(min(new, CONTEXT - max(PROMPT_LENGTHS)), frozenset()),
        Oracle(model),
    )


def random_model(
    family: str, depth: int, options: RuntimeOptions, *, vocabulary: int, seed: int, spread: float = 0.25
) -> Any:  # noqa: ANN401 - transformers' classes are not typed
    """A model of transformers with random weights of deviation `spread`, the same on every device."""
    build, flags = _SPARSE_MODEL if family == SPARSE else FAMILIES[family]
    config = build(**_shape(vocabulary, depth, spread), **flags)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        for name, value in model.named_parameters():
            if _is_quiet(name):
                value.data *= QUIET
    model.config.architectures = [type(model).__name__]
    return model.to(options.device, options.dtype)


def as_decoder(model: Any, options: RuntimeOptions) -> Decoder:  # noqa: ANN401
    """The decoder under test with a copy of the weights of a model of transformers."""
    tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return build_decoder(model.config, tensors, _runnable(options, model.config))


def _runnable(options: RuntimeOptions, config: Any) -> RuntimeOptions:  # noqa: ANN401
    """The options on the tier static for a model with mixtures of experts, which faster tiers do not run."""
    has_experts = decoder_config(config).moe is not None
    return on_tier(options, "static") if has_experts and options.tier != "eager" else options


def _shape(vocabulary: int, depth: int, spread: float) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": spread,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }


def _is_quiet(name: str) -> bool:
    """Whether a weight writes to the residual stream."""
    return name.endswith(("o_proj.weight", "down_proj.weight"))


def accepted_share(generations: Sequence[Generation]) -> tuple[int, int, int]:
    """Drafted and accepted tokens and rounds of some answers: whether they put the method to the test."""
    rounds = [each for generation in generations for each in generation.rounds]
    return sum(each.drafted for each in rounds), sum(each.accepted for each in rounds), len(rounds)
