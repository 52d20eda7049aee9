"""What makes two starts the same run: settings that change ids or times, and hashes of weights and inputs.

The hashes read a part of the weights only, so that they stay fast for large checkpoints.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from bench.compose.components import resolve_path
from bench.compose.settings import Settings
from bench.runtime.gguf import gguf_hash, gguf_parameters, read_gguf
from bench.runtime.hub import is_gguf
from bench.runtime.loading import weight_files
from bench.runtime.modules import PROVENANCE_FILE, WEIGHTS_FILE, count_parameters

_HASHED_BYTES = 1 << 20
_PLACES = ("path", "modules", "questions")
"""Keys of a model that say where things are or how many, and make no other run."""
_ADDED = ("dtype", "stop_ids")
"""Keys of a model that came later: they count only where they are set, so that older run ids stay valid."""


def run_identity(
    settings: Settings, *, questions: str, weights: str, template: str, tier: str, has_system: bool = False
) -> dict[str, Any]:
    """What a run id is the hash of; ``measure`` and folders of results are not part of it.

    Args:
        settings: Of the run.
        questions: Hash of the questions.
        weights: Hash of the model's weights.
        template: Hash of the chat template.
        tier: Tier of the decoder. ``auto`` depends on the machine, so the tier is written out for compiled
            passes, which may end in other ids.
        has_system: Whether a question has a system message; older code left those out of the prompt.
    """
    plain, method = settings.config, settings.method
    kept = {key: value for key, value in plain["model"].items() if key not in _PLACES}
    runtime = {key: value for key, value in plain["runtime"].items() if (key, value) != ("tier", "auto")}
    return {
        "method": {"target": method.target, **method.params},
        "method_weights": module_hash(method.params.get("weights")),
        "task": {key: value for key, value in plain["task"].items() if key != "path"},
        "questions": questions,
        "model": {key: value for key, value in kept.items() if value or key not in _ADDED},
        "model_weights": weights,
        "template": template,
        "sampling": plain["sampling"],
        "runtime": runtime | ({"tier": "compiled"} if tier == "compiled" else {}),
        "history": settings.measure.history,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        **({"system_messages": True} if has_system else {}),
    }


def shape_hash(folder: Path) -> str:
    """Hash for random weights, which follow from the shape in ``config.json``, or in a GGUF file."""
    if is_gguf(folder):
        return "random-" + gguf_hash(read_gguf(folder))[:9]
    return "random-" + hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:9]


def checkpoint_hash(folder: Path) -> str:
    """16 hex digits over a checkpoint: its config, and name, size and first MiB of every weight file.

    Reading all of a 13 GB file would take a minute; a retrained or converted checkpoint differs at its start.
    Of a GGUF file, the header and the beginning of every tensor are read.
    """
    if is_gguf(folder):
        return gguf_hash(read_gguf(folder))
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in weight_files(folder):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_HASHED_BYTES))
    return digest.hexdigest()[:16]


def module_hash(weights: Any) -> str | None:  # noqa: ANN401 - a parameter as the yaml gives it
    """Hash of a method's trained modules, so that retrained or recalibrated ones make another run."""
    if not isinstance(weights, str):
        return None
    folder = Path(resolve_path(weights))
    if (folder / "config.json").is_file() or is_gguf(folder):  # a whole model of the method's own
        return checkpoint_hash(folder)
    files = [folder / name for name in (WEIGHTS_FILE, PROVENANCE_FILE)]
    contents = [file.read_bytes() for file in files if file.is_file()]  # `attach` refuses missing files
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16] if contents else None


def module_parameters(weights: Any) -> int | None:  # noqa: ANN401 - as above
    """Parameters of a method's modules beside the target; of a whole model of its own, all its parameters."""
    if not isinstance(weights, str):
        return None
    folder = Path(resolve_path(weights))
    if is_gguf(folder):
        return gguf_parameters(read_gguf(folder))
    files = [file for file in (folder / WEIGHTS_FILE, folder / "model.safetensors") if file.is_file()]
    return sum(count_parameters(file) for file in files) or None
