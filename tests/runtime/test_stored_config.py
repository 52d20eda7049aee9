"""The configuration that a model is stored with, whatever file it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.runtime.model_config import decoder_config, read_config
from bench.runtime.stored_config import stored_config
from tests.methods.small import FAMILIES


def test_of_a_folder_it_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "odd": [1]}')
    assert stored_config(tmp_path) == {"model_type": "llama", "odd": [1]}


def test_of_a_gguf_file_it_is_what_transformers_would_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FAMILIES["llama"]
    monkeypatch.setattr("bench.runtime.stored_config.is_gguf", lambda path: True)
    monkeypatch.setattr("bench.runtime.stored_config.load_config", lambda path: config)
    stored = stored_config(tmp_path / "model.gguf") | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert decoder_config(read_config(tmp_path)) == decoder_config(config)
