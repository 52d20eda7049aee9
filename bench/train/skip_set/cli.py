"""``python -m bench.train.skip_set method=draft_verify model=tiny``: find the sub-layers to skip for a model.

The target answers held-out prompts. For every ratio of skipped sub-layers `methods.skipping.search` tries
sets, starting from the best set so far, and `bench.train.skip_set.rating` rates them. The best set of all is
written to the ``module.json`` of the method.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import Component, require_choice, require_least, resolve_path
from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig
from bench.errors import UserError
from bench.show.waiting import announce, waited

log = logging.getLogger(__name__)

OBJECTIVES = ("predicted", "measured")
Rate = Callable[[Any], float]
"""Rates a `bench.runtime.decoder.Skip`; typed as Any because --help must not import torch."""


@dataclass
class SkipSetConfig:
    """Settings of the search.

    Args:
        method: The method; with ``objective=predicted`` only its `draft_length` is used.
        model: The model.
        runtime: Device, dtype and threads.
        chat: What the model's chat template is given.
        prompts: File of prompts to measure on, none of which is a question of the benchmark; None takes
            held-out dialogues of the embedded model's corpus.
        per_subtask: Prompts of each subtask, or of each category of the file.
        tokens: Tokens decoded per dialogue.
        ratios: Shares of all sub-layers to skip, tried one after another.
        max_iter: Largest number of tries per ratio.
        max_tol: Tries in a row without a better set after which a ratio ends.
        bayes_interval: Tries from one suggestion of the Bayesian optimiser to the next; the tries between are
            random, with 0 all of them.
        objective: ``predicted``: expected tokens per target step, from the share of matching tokens and the
            weights that are read; repeatable. ``measured``: tokens per second of the method itself, as in the
            paper.
        seed: Seed of dialogues and tries.
        out: Folder of the result; None stands for ``method.weights`` if the model has modules, else for
            ``results/train/<model>/<method>``.
    """

    method: Any = MISSING
    model: ModelConfig = MISSING
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    prompts: str | None = None
    per_subtask: int = 2
    tokens: int = 96
    ratios: list[float] = field(default_factory=lambda: [0.3, 0.45, 0.6, 0.75, 0.85])
    max_iter: int = 150
    max_tol: int = 75
    bayes_interval: int = 10
    objective: str = "predicted"
    seed: int = 1
    out: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("per_subtask", 1), ("tokens", 2), ("max_iter", 1), ("max_tol", 0)):
            require_least(name, getattr(self, name), least)
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise UserError(
                f"ratios must lie between 0 and 1, got {self.ratios}", "the default is 0.3 to 0.85"
            )
        require_choice("objective", self.objective, OBJECTIVES)


def main() -> None:
    """Entry point of ``python -m bench.train.skip_set``."""
    ConfigStore.instance().store(name="skip_set_schema", node=SkipSetConfig)
    run_composed(_job, "skip_set", "nothing was stored, the earlier set is kept")


def _job(composed: DictConfig) -> None:
    settings: SkipSetConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    announce("loading torch and the model; held-out prompts are continued next, then sets are tried")

    from bench.compose.identity import checkpoint_hash
    from bench.compose.workbench import options_for, settle_threads
    from bench.runtime.checkpoint_files import resolve
    from bench.runtime.loading import load_decoder
    from bench.runtime.modules import save_provenance
    from bench.tasks.tokenizer import load_tokenizer

    choices = HydraConfig.get().runtime.choices
    name, model = str(choices["method"]), str(choices["model"])
    if "skip_attention" not in settings.method or "weights" not in settings.method:
        raise UserError(f"method={name} keeps no set of skipped sub-layers", "use method=draft_verify")
    folder = resolve(settings.model.path, settings.model.revision)
    decoder = load_decoder(folder, options_for(settings.runtime, settings.model))
    settle_threads(decoder, settings.runtime.threads)
    facts = find_skip_set(settings, name, decoder, load_tokenizer(folder))
    out = _out(settings, model, name)
    save_provenance(out, {"method": name, "model": model, "model_weights": checkpoint_hash(folder), **facts})
    log.info("stored in %s", out)


def _out(settings: SkipSetConfig, model: str, name: str) -> Path:
    if settings.out is not None:
        return Path(settings.out)
    if settings.model.modules is None:
        return Path(f"results/train/{model}/{name}")
    return Path(resolve_path(settings.method["weights"]))


def find_skip_set(settings: SkipSetConfig, name: str, decoder: Any, tokenizer: Any) -> dict[str, Any]:  # noqa: ANN401 - --help must not import torch
    """Search, and return the entries ``skip`` and ``search`` for ``module.json``."""
    from bench.compose.workbench import chat_format
    from bench.runtime.sampling import DraftVocab
    from bench.train.data.heldout import continue_greedily, heldout_prompts
    from bench.train.skip_set.rating import TextMatch, draft_cost, expected_rate
    from methods.core.autoregressive import Autoregressive

    target = Autoregressive()
    target.attach(decoder)
    chat = chat_format(tokenizer, settings.model.template, settings.chat)
    prompts = heldout_prompts(settings.prompts, chat, settings.seed, settings.per_subtask, decoder.device)
    end = frozenset({int(tokenizer.eos_token_id)})
    texts = [
        continue_greedily(target, prompt, settings.tokens, end)
        for prompt in waited(prompts, "continuing", "prompt")
    ]
    match = TextMatch(decoder, texts)
    most = int(settings.method["draft_length"])
    size, file = settings.method.get("draft_vocab"), settings.method.get("frequent_tokens")
    head = DraftVocab(size, None if file is None else str(resolve_path(file))).head(decoder).lm_head

    def predicted(skip: Any) -> float:  # noqa: ANN401 - as above
        return expected_rate(match(skip), draft_cost(decoder, skip, head), most)

    rate = predicted if settings.objective == "predicted" else _measuring(settings, name, decoder, texts)
    best, score, tries = search_ratios(settings, decoder.depth, rate)
    facts = {
        "objective": settings.objective,
        "score": round(score, 4),
        "match": round(match(best), 4),
        "draft_cost": round(draft_cost(decoder, best, head), 4),
        "positions": match.positions,
        "tries": tries,
        "seed": settings.seed,
        **settings.chat.facts,
    }
    log.info("best: skips attention %s, mlp %s: %s", sorted(best.attention), sorted(best.mlp), facts)
    return {"skip": {"attention": sorted(best.attention), "mlp": sorted(best.mlp)}, "search": facts}


def search_ratios(settings: SkipSetConfig, depth: int, rate: Rate) -> tuple[Any, float, int]:
    """The best set over all ratios, its score, and how many sets were tried."""
    from methods.skipping.search import Candidates, SearchRules, SkipSearch

    candidates = Candidates.of(depth, keep_first_last=False)
    best, score, tries = candidates.odd_layers(), -math.inf, 0
    for ratio in waited(settings.ratios, "searching", "ratio"):
        rules = SearchRules(
            bayes_interval=settings.bayes_interval,
            max_iter=settings.max_iter,
            max_tol=settings.max_tol,
            max_score=math.inf,
            seed=settings.seed,
        )
        search = SkipSearch(candidates, best, candidates.number(ratio), rules)
        while search.is_on:
            search.step(rate)
        best, score, tries = search.best, search.score or score, tries + search.tries
        log.info("ratio %.2f: best so far %.4f after %d tries", ratio, score, tries)
    return best, score, tries


def _measuring(settings: SkipSetConfig, name: str, decoder: Any, texts: Any) -> Rate:  # noqa: ANN401 - as above
    """A function that rates a set by the measured speed of the method with it."""
    from bench.train.skip_set.rating import measured_rate

    def measured(skip: Any) -> float:  # noqa: ANN401 - as above
        changes = {"weights": None, "skip_attention": sorted(skip.attention), "skip_mlp": sorted(skip.mlp)}
        method = Component.from_node("method", name, {**settings.method, **changes}).build()
        method.attach(decoder)
        return measured_rate(method, texts, settings.tokens)

    return measured
