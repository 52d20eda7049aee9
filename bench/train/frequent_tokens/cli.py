"""``python -m bench.train.frequent_tokens model=smollm2 answers=FILE``: a model's tokens by frequency.

With ``method.draft_vocab=N`` a method drafts the first N tokens of this list alone. Count the model's own
answers, as ``python -m bench.train.answers`` writes them: they decide what is worth drafting. Only the
tokenizer is read, never the weights.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import require_complete, require_known, require_least
from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig
from bench.errors import UserError
from bench.show.waiting import announce

log = logging.getLogger(__name__)

SHOWN = (256, 1024, 2048, 4096, 8192, 16384)
"""Sizes whose coverage is printed and stored."""


@dataclass
class FrequentTokensConfig:
    """Settings of a list.

    Args:
        answers: One or several files of conversations, in ShareGPT's or OpenAI's format.
        prompts: File of further prompts without answers, see `bench.tasks.prompt_files`; None is none.
        model: The model whose tokenizer and chat template count.
        runtime: Of no effect but the longest sequence; the model's weights are not loaded.
        length: Tokens listed; None is the whole vocabulary.
        chat: What the model's chat template is given.
        out: The list; None is ``results/frequent_tokens/<model>.json``.
    """

    answers: Any = MISSING
    prompts: str | None = None
    model: ModelConfig = MISSING
    runtime: RuntimeConfig = MISSING
    length: int | None = 16384
    chat: ChatConfig = field(default_factory=ChatConfig)
    out: str | None = None

    def __post_init__(self) -> None:
        require_least("length", self.length, 1)


def main() -> None:
    """Entry point of ``python -m bench.train.frequent_tokens``."""
    ConfigStore.instance().store(name="frequent_tokens_schema", node=FrequentTokensConfig)
    run_composed(_job, "frequent_tokens", "nothing was written")


def _job(composed: DictConfig) -> None:
    require_known(composed)
    require_complete(composed)
    settings: FrequentTokensConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    files = [settings.answers] if isinstance(settings.answers, str) else list(settings.answers)
    if not files:
        raise UserError("answers names no file", "add answers=FILE or answers=[FILE,FILE]")

    announce("loading the tokenizer; the answers are counted next")
    from bench.records.files import write_text

    content = list_tokens(settings, files)
    out = Path(settings.out or f"results/frequent_tokens/{HydraConfig.get().runtime.choices['model']}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, _as_text(content))
    shares = ", ".join(f"{size} tokens {share:.1%}" for size, share in content["coverage"].items())
    log.info("%d answer tokens: %s of them", content["answer_tokens"], shares)
    log.info("wrote %s; use it with model.frequent_tokens=%s method.draft_vocab=N", out, out)


def list_tokens(settings: FrequentTokensConfig, files: Sequence[str]) -> dict[str, Any]:
    """The list and where it comes from.

    Raises:
        UserError: If the model is missing, a file cannot be read, or no file holds an answer.
    """
    from itertools import islice

    from bench.compose.workbench import find_target
    from bench.runtime.loading import load_config
    from bench.runtime.model_config import decoder_config
    from bench.tasks.prompt_files.files import PromptFile, read_rows
    from bench.tasks.prompt_files.reader import read_prompts
    from bench.train.frequent_tokens.counting import by_frequency, count_tokens, coverage, template_ids

    target = find_target(settings.model, settings.runtime, settings.chat)
    vocabulary = decoder_config(load_config(target.folder)).vocab
    sources = [read_rows(PromptFile(file, "answers")) for file in files]
    asked = settings.prompts and read_prompts(PromptFile(settings.prompts, "prompts")).prompts
    requests = asked or ()
    questions = (turn for request in requests for turn in request.turns)
    counts = count_tokens(target.chat, (row for read in sources for row in read.rows), questions)
    if not counts.answers:
        raise UserError(
            f"{', '.join(files)} holds no conversation of a question and an answer",
            f"make answers: python -m bench.train.answers model={settings.model.name or '...'} prompts=FILE",
        )
    first = template_ids(target.chat, target.eos_ids)
    ids = list(islice(by_frequency(counts, first, vocabulary), settings.length))
    return {
        "vocabulary": vocabulary,
        "tokenizer": _tokenizer_hash(target.chat.tokenizer),
        "template": target.chat.template_hash,
        **settings.chat.facts,
        "files": [
            {"name": Path(file).name, "sha256": read.sha256, "rows": len(read.rows)}
            for file, read in zip(files, sources, strict=True)
        ],
        "prompts": settings.prompts and {"name": Path(settings.prompts).name, "rows": len(requests)},
        "conversations": counts.conversations,
        "answer_tokens": counts.answers.total(),
        "always": len(first),
        "from_answers": len(counts.answers),
        "from_prompts": len(set(counts.prompts) - set(counts.answers)),
        "coverage": {size: round(coverage(counts, ids[:size]), 4) for size in SHOWN if size <= len(ids)},
        "ids": ids,
    }


def _tokenizer_hash(tokenizer: Any) -> str:  # noqa: ANN401 - --help must not import transformers
    """16 hex digits of the vocabulary: every token's text and id."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def _as_text(content: dict[str, Any]) -> str:
    """JSON with the facts on lines of their own and all ids on one."""
    facts = {key: value for key, value in content.items() if key != "ids"}
    head = json.dumps(facts, indent=1).removesuffix("\n}")
    return f'{head},\n "ids": {json.dumps(content["ids"], separators=(",", ":"))}\n}}\n'
