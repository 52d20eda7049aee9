"""The command line: decode prompts, guess the experts of later layers, print a table, store the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import require_least, resolve_path
from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.errors import UserError
from bench.show.waiting import Wait, announce

if TYPE_CHECKING:
    from bench.routing.measure import Changes
    from bench.routing.records import Routing
    from bench.runtime.decoder import Decoder


@dataclass
class RoutingConfig:
    """Settings of the guesses.

    Args:
        model: Which model; it must have mixtures of experts.
        runtime: Where and how it runs.
        changes: Folders of changes that m2r2_moe has trained, each for another distance; [] takes none.
        candidates: Experts that a guess names for a row; None takes as many as a row uses.
        prompts: Built-in prompts that are decoded.
        tokens: Tokens decoded per prompt.
        results_dir: Where ``routing/`` lies.
    """

    model: ModelConfig = MISSING
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    changes: list[str] = field(default_factory=list)
    candidates: int | None = None
    prompts: int = 24
    tokens: int = 64
    results_dir: str = "results"

    def __post_init__(self) -> None:
        for name, least in {"candidates": 1, "prompts": 1, "tokens": 3}.items():
            require_least(name, getattr(self, name), least)


def main() -> None:
    """Entry point of ``python -m bench.routing``."""
    ConfigStore.instance().store(name="routing_schema", node=RoutingConfig)
    run_composed(_job, "routing", "nothing is stored")


def _job(composed: DictConfig) -> None:
    settings: RoutingConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    announce("loading torch and the model; prompts are decoded next, then the guesses are counted")

    from bench.compose.workbench import find_target
    from bench.routing.records import GUESSERS, routing_rows, save_routing
    from bench.show.layout import text_table

    target = find_target(settings.model, settings.runtime)
    decoder = target.load(settings.runtime.threads)
    name = settings.model.name or HydraConfig.get().runtime.choices["model"]
    routing = _measured(settings, str(name), target.weights_hash, decoder, target.prompts(settings.prompts))
    path = save_routing(Path(settings.results_dir), routing)
    lines = [
        f"{routing.model}: of the {routing.top_k} of {routing.experts} experts that a layer chose for a row, "
        f"the share among {routing.candidates} guessed",
        f"{routing.rows} decoded tokens, all pairs of layers of a distance together",
        *text_table(routing_rows(routing)),
        *(f"{guesser}: {meaning}" for guesser, meaning in GUESSERS.items()),
        f"stored in {path}",
    ]
    print("\n".join(lines))  # noqa: T201 - the command's result


def _measured(
    settings: RoutingConfig, name: str, weights: str, decoder: Decoder, prompts: Sequence[Any]
) -> Routing:
    """The record of these prompts."""
    from bench.routing.measure import decoded, guesses_of
    from bench.routing.records import Routing
    from bench.runtime.experts.placement import mixtures_of

    mixtures = mixtures_of(decoder)
    config = next(iter(mixtures.values())).config
    candidates = min(config.experts, settings.candidates or config.top_k)
    changes, facts, hashes = _changes(settings.changes, decoder, sorted(mixtures))
    answers = []
    with Wait("decoding", len(prompts), "prompt") as wait:
        for prompt in prompts:
            answers.append(decoded(decoder, prompt, settings.tokens))
            wait.add()
    return Routing(
        model=name,
        identity={
            "weights": weights,
            "changes": hashes,
            "candidates": candidates,
            "prompts": len(prompts),
            "tokens": settings.tokens,
            "dtype": str(decoder.dtype).removeprefix("torch."),
        },
        layers=tuple(sorted(mixtures)),
        experts=config.experts,
        top_k=config.top_k,
        candidates=candidates,
        rows=sum(next(iter(answer.values())).chosen.shape[0] - 1 for answer in answers),
        changes=facts,
        guesses=tuple(guesses_of(decoder, answers, changes, candidates)),
    )


def _changes(
    folders: Sequence[str], decoder: Decoder, layers: Sequence[int]
) -> tuple[Changes, Mapping[str, Any], Mapping[str, str]]:
    """Trained changes by pair of layers, and by distance what is stored beside them and their hash.

    Only pairs of the distance that a folder was trained for are taken from it.

    Raises:
        UserError: If a folder holds none, or two hold some for one distance.
    """
    from bench.compose.identity import module_hash
    from methods.expert_loading.changes import stored_changes

    changes, facts, hashes = {}, dict[str, Any](), dict[str, str]()
    for text in folders:
        folder = Path(resolve_path(text))
        stored = stored_changes(folder, "m2r2_moe", layers, decoder)
        distance = str(stored.ahead)
        if distance in facts:
            raise UserError(
                f"changes: {folder} and another folder were both trained for ahead={distance}",
                "name one of them",
            )
        facts[distance], hashes[distance] = stored.facts, str(module_hash(text))
        for (layer, later), change in stored.maps.items():
            if layers.index(later) - layers.index(layer) == stored.ahead:
                changes[layer, later] = change
    return changes, facts, hashes
