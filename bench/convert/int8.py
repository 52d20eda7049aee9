"""A method's weights, stored again in 8 bits: half the size, for weights that must be small to ship."""

from __future__ import annotations

from pathlib import Path

from bench.errors import UserError
from bench.runtime.checkpoint_files import read_json
from bench.runtime.int8_rows import in_int8
from bench.runtime.modules import MODEL_FILE, PROVENANCE_FILE, WEIGHTS_FILE, save_model, save_module
from bench.runtime.stored_tensors import read_file


def convert_int8(source: Path, out: Path) -> str:
    """Store a module, or a whole tuned model, with 8-bit matrices; returns what it is.

    Args:
        source: Folder that a training or a conversion has written.
        out: Folder of the result.

    Raises:
        UserError: If the folder holds neither kind of weights, or damaged ones.
    """
    for name, facts_file, save in (
        (WEIGHTS_FILE, PROVENANCE_FILE, save_module),
        (MODEL_FILE, "config.json", save_model),
    ):
        if (source / name).is_file():
            save(out, in_int8(read_file(source / name)), read_json(source / facts_file))
            return f"the weights of {source} in 8 bits"
    raise UserError(
        f"{source} holds no {WEIGHTS_FILE} and no {MODEL_FILE}",
        "set source to the folder that python -m bench.train has written",
    )
