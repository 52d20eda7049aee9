"""``python -m bench.train.calibrate method=medusa model=tiny``: find the fastest draft tree and store it.

How often each path of candidates is right is measured on held-out dialogues, and the time of a round of each
size on this machine; `bench.train.calibrate.tree_search` chooses the tree from both. It is written to the
``module.json`` of ``method.weights``.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import Component, require_least, resolve_path
from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig
from bench.errors import UserError
from bench.show.waiting import announce, waited
from bench.train.calibrate.tree_search import Node, Path, SizedTree, best_size

log = logging.getLogger(__name__)


@dataclass
class CalibrateConfig:
    """Settings of a calibration.

    Args:
        method: The method that drafts the tree; its `weights` must be trained.
        model: The model.
        runtime: Device, dtype and threads; the round times are valid for these only.
        chat: What the model's chat template is given.
        prompts: File of prompts to measure on, none of which is a question of the benchmark; None takes
            held-out dialogues of the embedded model's corpus.
        per_subtask: Prompts of each subtask, or of each category of the file.
        tokens: Tokens decoded per dialogue.
        width: Candidates per depth that the tree may use.
        max_nodes: Largest number of nodes, without the root.
        least_tokens: Smallest acceptable number of expected tokens per round; the fastest such tree wins.
        seed: Seed of the choice of dialogues.
    """

    method: Any = MISSING
    model: ModelConfig = MISSING
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    prompts: str | None = None
    per_subtask: int = 8
    tokens: int = 96
    width: int = 10
    max_nodes: int = 48
    least_tokens: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least in (("per_subtask", 1), ("tokens", 16), ("width", 1), ("max_nodes", 1)):
            require_least(name, getattr(self, name), least)


def main() -> None:
    """Entry point of ``python -m bench.train.calibrate``."""
    ConfigStore.instance().store(name="calibrate_schema", node=CalibrateConfig)
    run_composed(_job, "calibrate", "nothing was stored, the earlier tree is kept")


def _job(composed: DictConfig) -> None:
    settings: CalibrateConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    announce("loading torch and the model; held-out prompts are continued next, then trees are timed")

    from bench.compose.workbench import options_for, settle_threads
    from bench.runtime.checkpoint_files import resolve
    from bench.runtime.loading import load_decoder
    from bench.runtime.modules import PROVENANCE_FILE
    from bench.tasks.tokenizer import load_tokenizer

    folder = resolve(settings.model.path, settings.model.revision)
    decoder = load_decoder(folder, options_for(settings.runtime, settings.model))
    settle_threads(decoder, settings.runtime.threads)  # measure with the threads of the benchmark
    name = str(HydraConfig.get().runtime.choices["method"])
    facts = calibrate(settings, name, decoder, load_tokenizer(folder))
    target = FilePath(resolve_path(settings.method["weights"])) / PROVENANCE_FILE
    store_tree(target, facts)
    log.info("stored a tree of %d nodes in %s", len(facts["tree"]), target)


def calibrate(settings: CalibrateConfig, name: str, decoder: Any, tokenizer: Any) -> dict[str, Any]:  # noqa: ANN401 - --help must not import torch
    """Measure, search, and return the entries for ``module.json``.

    Returns:
        ``tree``, ``calibration``, and the settings of the draft schedule with which that tree is fastest.
    """
    import torch

    from bench.compose.workbench import chat_format
    from bench.train.calibrate.measure import measured_ranks, rank_accuracies, right_paths
    from bench.train.calibrate.tree_search import grow
    from bench.train.data.heldout import continue_greedily, heldout_prompts
    from methods.core.tree_round import Calibratable

    def build(changes: Mapping[str, object]) -> Any:  # noqa: ANN401 - any method
        method = Component.from_node("method", name, {**settings.method, **changes}).build()
        method.attach(decoder)
        return method

    if not isinstance(Component.from_node("method", name, settings.method).build(), Calibratable):
        raise UserError(f"method={name} drafts no tree", "choose a method with a tree, such as medusa")
    method = build({"tree": "chain"})
    chat = chat_format(tokenizer, settings.model.template, settings.chat)
    prompts = heldout_prompts(settings.prompts, chat, settings.seed, settings.per_subtask, decoder.device)
    end = frozenset({int(tokenizer.eos_token_id)})
    texts = [
        continue_greedily(method, prompt, settings.tokens, end)
        for prompt in waited(prompts, "continuing", "prompt")
    ]
    ranks = [measured_ranks(method, text, settings.width) for text in texts]
    accuracies = rank_accuracies(torch.cat(ranks), settings.width)
    for depth, row in enumerate(accuracies, start=1):
        log.info("depth %d: top-1 %.3f, top-5 %.3f", depth, row[0], sum(row[:5]))
    nodes = grow([right_paths(text_ranks, settings.width) for text_ranks in ranks], settings.max_nodes)
    fastest = _fastest(build, method.schedules, nodes, prompts[::8], settings)
    measured = {"accuracies": accuracies, "positions": sum(map(len, ranks))}
    device = f"{decoder.device.type}, {torch.get_num_threads()} threads"
    facts = {**measured, **fastest["calibration"], "device": device, **settings.chat.facts}
    return {**fastest, "calibration": facts}


def _fastest(
    build: Callable[[Mapping[str, object]], Any],
    schedules: Sequence[Mapping[str, Any]],
    nodes: Sequence[Node],
    prompts: list[Any],
    settings: CalibrateConfig,
) -> dict[str, Any]:
    """The tree and the draft schedule that together give the most expected tokens per second."""
    from bench.train.calibrate.measure import round_seconds

    paths = [node.path for node in nodes]
    trials = []
    for schedule in schedules:
        drafting = partial(_drafting, build, schedule)
        round_s = round_seconds(drafting, paths, prompts, settings.tokens)
        _report(schedule, nodes, round_s)
        trials.append((_sized(nodes, round_s, settings.least_tokens), schedule, round_s))
    best, schedule, round_s = max(trials, key=lambda trial: trial[0].tokens / trial[0].seconds)
    log.info(
        "best: %d nodes, %.2f tokens expected in %.2f ms", len(best.paths), best.tokens, 1e3 * best.seconds
    )
    return {
        **schedule,
        "tree": [list(path) for path in sorted(best.paths, key=lambda path: (len(path), path))],
        "calibration": {
            "round_ms": {str(size): round(1e3 * seconds, 3) for size, seconds in round_s.items()},
            "expected_tokens": round(best.tokens, 3),
        },
    }


def _sized(nodes: Sequence[Node], round_s: Mapping[int, float], least_tokens: float) -> SizedTree:
    try:
        return best_size(nodes, round_s, least_tokens)
    except ValueError as error:
        raise UserError(str(error), "lower least_tokens, or raise max_nodes") from error


def _drafting(
    build: Callable[[Mapping[str, object]], Any], schedule: Mapping[str, Any], paths: Sequence[Path]
) -> Any:  # noqa: ANN401 - any method
    return build({**schedule, "tree": paths})


def _report(schedule: Mapping[str, Any], nodes: Sequence[Node], round_s: Mapping[int, float]) -> None:
    for size, seconds in round_s.items():
        tokens = nodes[size - 1].tokens
        log.info(
            "%3d nodes: %.2f tokens expected, %.2f ms, %.1f tokens/s %s",
            size,
            tokens,
            1e3 * seconds,
            tokens / seconds,
            dict(schedule) or "",
        )


def store_tree(path: FilePath, facts: dict[str, Any]) -> None:
    """Add entries to a ``module.json``; an interrupted call leaves the old file."""
    from bench.runtime.checkpoint_files import read_json
    from bench.runtime.modules import save_provenance

    save_provenance(path.parent, {**read_json(path), **facts})
