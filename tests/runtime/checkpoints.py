"""Little checkpoints with a tokenizer, decoded by us as the command does it, and by transformers."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.compose.workbench import find_target
from bench.errors import UserError
from bench.measure.meters import turn_clock
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget
from tests.runtime.models import CPU

SHIPPED = Path(__file__).resolve().parents[2] / "bench" / "assets" / "tiny"
LITTLE: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 3,
    "pad_token_id": 3,
    "tie_word_embeddings": False,
}
NEW = 8
PROMPT = "Name three birds."


@cache
def model(config: str = json.dumps(LITTLE)) -> Any:
    """A random Llama."""
    return random_model(LlamaConfig(**json.loads(config)))


def random_model(config: Any) -> Any:
    """A random model of any family, the same in every run."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(deepcopy(config)).eval()  # type: ignore[no-untyped-call]


def save(folder: Path, source: Any = None, **options: Any) -> Path:
    """Save a model with the shipped tokenizer, as a user would."""
    (source or model()).save_pretrained(folder, **options)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(SHIPPED / name, folder / name)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the stored tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def patch(folder: Path, file: str = "config.json", drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Change fields of a JSON file."""
    fields = {**json.loads((folder / file).read_text()), **changes}
    (folder / file).write_text(json.dumps({key: value for key, value in fields.items() if key not in drop}))


def our_ids(folder: Path, prompt: str = PROMPT, new: int = NEW) -> tuple[list[int], list[int]]:
    """The prompt's ids and the greedy answer's, by the steps of the command."""
    target = find_target(ModelConfig(path=str(folder), name="case"), RuntimeConfig(device="cpu", threads=1))
    ids = target.chat.prompt_ids([prompt], [])
    assert target.weights_hash
    decoder, method, clock = target.load(1), Autoregressive(), turn_clock(CPU)
    method.attach(decoder)
    room = decoder.capacity - len(ids)
    if room < 1:
        raise UserError("the prompt does not fit", "shorten it")  # as the runner does
    with torch.inference_mode(), clock:
        made = method.generate(
            torch.tensor(ids), Budget(min(new, room), target.eos_ids), Sampler(Sampling(), CPU, 0), clock
        )
    return ids, list(made.cut(new, target.eos_ids).ids)


def oracle_ids(folder: Path, ids: list[int], new: int = NEW) -> list[int]:
    """The greedy answer of ``transformers.generate``, without the penalties that we leave out.

    Raises:
        ValueError: If the folder lacks weights, for which transformers would take random ones.
    """
    oracle, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    if report["missing_keys"]:
        raise ValueError(f"{folder} lacks {report['missing_keys']}")
    ends = oracle.generation_config.eos_token_id
    oracle.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=3)
    prompt = torch.tensor([ids])
    made = oracle.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=new
    )
    answer: list[int] = made[0, len(ids) :].tolist()
    return answer
