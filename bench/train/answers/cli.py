"""``python -m bench.train.answers model=smollm2 prompts=FILE``: a model's own answers, to train modules on.

Modules that draft must learn what this model says, not what a person would say. The file that is written is
taken by ``python -m bench.train data=answers data.path=FILE``. Batches are stored as they come: after an
interrupt the same command goes on.
"""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import require_choice, require_complete, require_known, require_least
from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig, SamplingConfig
from bench.errors import UserError
from bench.show.waiting import announce
from bench.tasks.prompt_files.files import Format, PromptFile, require_format
from bench.tasks.prompt_files.reader import first_turn, read_prompts

log = logging.getLogger(__name__)

ENGINES = ("auto", "transformers", "ctranslate2")
TURNS = ("all", "first")


@dataclass
class AnswersConfig:
    """Settings of the answers.

    Args:
        prompts: File or folder of prompts, see `bench.tasks.prompt_files`.
        column: The key or column that holds the text; None finds it by the usual names.
        format: ``table``, ``lines`` or ``whole``; None recognises it by its content.
        model: The model that answers.
        chat: What the model's chat template is given.
        runtime: Device, dtype, threads and longest sequence; the tier has no effect.
        sampling: How tokens are chosen.
        out: JSONL file of the answers; None is ``results/answers/<model>.jsonl``.
        max_new_tokens: Most tokens of an answer.
        batch: Prompts that are answered at once.
        turns: Which turns of a user are answered, one after the other: ``all``, or the ``first``.
        limit: Number of prompts, from the start of the file; None takes all.
        engine: Library that makes the answers; ``auto`` takes CTranslate2 where it is installed and takes the
            model, else transformers.
        seed: Seed of the sampling.
    """

    prompts: str = MISSING
    column: str | None = None
    format: str | None = None
    model: ModelConfig = MISSING
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    out: str | None = None
    max_new_tokens: int = 256
    batch: int = 32
    turns: str = "all"
    limit: int | None = None
    engine: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("batch", 1), ("limit", 1), ("seed", 0)):
            require_least(name, getattr(self, name), least)
        require_choice("turns", self.turns, TURNS)
        require_format("format", self.format)
        require_choice("engine", self.engine, ENGINES)


def main() -> None:
    """Entry point of ``python -m bench.train.answers``."""
    ConfigStore.instance().store(name="answers_schema", node=AnswersConfig)
    run_composed(_job, "answers", "all batches but the last are stored, and the same command resumes")


def _job(composed: DictConfig) -> None:
    require_known(composed)
    require_complete(composed)
    settings: AnswersConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    if settings.model.weights == "random":
        raise UserError("random weights have no answers to learn from", "choose a model with stored weights")

    kind = Format(settings.format or Format.AUTO)
    file = PromptFile(settings.prompts, "prompts", kind, settings.column, has_settings=True)
    requests = list(read_prompts(file).prompts[: settings.limit])
    if settings.turns == "first":
        requests = [first_turn(request) for request in requests]
    announce("loading torch and the model; the prompts are answered next")
    model = str(HydraConfig.get().runtime.choices["model"])
    out = Path(settings.out or f"results/answers/{model}.jsonl")
    _answer(settings, model, requests, out)


def _answer(settings: AnswersConfig, model: str, requests: list[Any], out: Path) -> None:
    from bench.compose.workbench import find_target
    from bench.runtime.loading import load_config
    from bench.runtime.model_config import decoder_config
    from bench.runtime.sampling import Sampling
    from bench.train.answers.answer_file import AnswerFile
    from bench.train.answers.dialogues import Answering, answer_all
    from bench.train.answers.engines import Decoding, load_engine

    target = find_target(settings.model, settings.runtime, settings.chat)
    decoding = Decoding(
        Sampling(**asdict(settings.sampling)), settings.max_new_tokens, settings.runtime.threads
    )
    with AnswerFile(out, {"model": model, **_provenance(settings, target, decoding)}) as file:
        if not file.missing(requests):
            log.info("all %d prompts are answered in %s", len(requests), out)
            return
        engine = load_engine(settings.engine, target, decoding)
        context = min(target.options.max_length, decoder_config(load_config(target.folder)).context)
        answering = Answering(
            engine,
            target.chat,
            target.eos_ids,
            context,
            settings.max_new_tokens,
            decoding.label,
            settings.seed,
        )
        tally = answer_all(answering, requests, settings.batch, file)
    log.info(
        "%d answers of %d tokens by %s, %.0f tokens/s; %d reached max_new_tokens, %d were too long; in %s",
        tally.rows,
        tally.tokens,
        engine.name,
        tally.tokens_per_s,
        tally.cut - tally.errors,
        tally.errors,
        out,
    )


def _provenance(settings: AnswersConfig, target: Any, decoding: Any) -> dict[str, Any]:  # noqa: ANN401 - --help must not import torch
    """What the answers depend on, kept beside them."""
    return {
        "model_weights": target.weights_hash,
        "template": target.chat.template_hash,
        **settings.chat.facts,
        "end_tokens": sorted(target.eos_ids),
        "dtype": str(target.options.dtype).removeprefix("torch."),
        "sampling": decoding.label,
        "seed": settings.seed if settings.sampling.temperature else None,
        "max_new_tokens": settings.max_new_tokens,
        "turns": settings.turns,
    }
