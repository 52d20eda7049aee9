"""What files alone tell is what the libraries make of them: ids, hashes, sizes, templates, end tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from bench.compose.identity import checkpoint_hash
from bench.compose.schema import ModelConfig
from bench.compose.workbench import prepare_run
from bench.outline import Unclear
from bench.outline.gguf_file import read_gguf_header
from bench.outline.model import model_shape, parameters, pass_parameters, stated_shape, token_numbers
from bench.outline.run import has_shipped_settings, outline_of
from bench.outline.tokenizer import hash_of_template, tokenizer_outline
from bench.plan.empty_model import find_empty
from bench.plan.outlook import estimate
from bench.runtime.gguf import gguf_tokens, read_gguf
from bench.runtime.loading import load_config, load_decoder
from bench.runtime.model_config import decoder_config
from bench.runtime.package_index import cached_model
from bench.tasks.chat import ChatFormat
from bench.tasks.tokenizer import load_tokenizer
from tests.harness import arena_of, composed_settings, save_prompts, save_random_model, settings_for
from tests.runtime.gguf_files import write_gguf
from tests.runtime.models import CONFIGS, options, tiny_model

TINY = Path("bench/assets/tiny").resolve()
LEFT = ("granite", "olmo", "smollm3", "gemma3", "mixtral", "qwen2_moe", "qwen3_moe")
"""Families that are left to transformers."""
NAMES = ("layers", "width", "heads", "kv_heads", "head_dim", "mlp_width", "vocab", "context", "tied_head")
BIASES = ("qkv_bias", "output_bias", "mlp_bias")
VOCABULARY = [*(chr(ord("!") + place) for place in range(60)), '!"']
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def smollm2() -> Path:
    file = cached_model("smollm2")
    if file is None:
        pytest.skip("smollm2 is not in the cache")
    return file


def require_same_shape(folder: Path, *, is_empty: bool = False) -> None:
    """Against transformers' config and our decoder, which a large model needs no weights for."""
    outline, known = model_shape(folder), decoder_config(load_config(folder))
    for name in (*NAMES, *BIASES):
        assert getattr(outline, name) == getattr(known, name), name
    decoder = (
        find_empty(ModelConfig(path=str(folder)), options())[0]
        if is_empty
        else load_decoder(folder, options())
    )
    assert decoder is not None
    counted = parameters(outline), pass_parameters(outline), token_numbers(outline) * 4
    assert counted == (decoder.parameters, decoder.pass_parameters, decoder.cache.token_bytes)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_states_the_shape_that_the_decoder_has_or_leaves_it_to_transformers(
    name: str, tmp_path: Path
) -> None:
    tiny_model(CONFIGS[name]).save_pretrained(tmp_path)
    if name.startswith(LEFT) or (name.startswith("qwen") and "window" in name):
        with pytest.raises(Unclear):
            model_shape(tmp_path)
        return
    require_same_shape(tmp_path)


def test_shapes_of_shipped_and_fetched_models() -> None:
    require_same_shape(TINY)
    require_same_shape(smollm2(), is_empty=True)


@pytest.mark.parametrize("name", ["llama-mha", "llama-tied-one-kv-head", "qwen2-biases", "llama-all-biases"])
def test_a_gguf_file_is_read_as_the_library_reads_it(name: str, tmp_path: Path) -> None:
    architecture = name.partition("-")[0]
    end = {"tokenizer.ggml.eos_token_id": 2, "tokenizer.chat_template": TEMPLATE}
    file = tmp_path / "model.gguf"
    write_gguf(file, tiny_model(CONFIGS[name]), architecture, metadata=end, vocabulary=VOCABULARY, unused=0)
    header, known = read_gguf_header(file), read_gguf(file)
    assert header.parameters == sum(tensor.n_elements for tensor in known.tensors.values())
    assert header.tokens == gguf_tokens(known)
    require_same_shape(file)
    chat = ChatFormat(load_tokenizer(file))
    assert hash_of_template("auto", tokenizer_outline(file)) == chat.template_hash


def test_unused_tokens_of_a_gguf_file_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, tiny_model(CONFIGS["llama-mha"]), "llama", vocabulary=VOCABULARY, unused=3)
    assert read_gguf_header(file).tokens == gguf_tokens(read_gguf(file)) == 58


def test_hashes_of_weights_stay_what_records_name() -> None:
    assert checkpoint_hash(TINY) == "v2-53e94a0b86399162"
    assert checkpoint_hash(smollm2()) == "v2-1af56fa290d9835f"


@pytest.mark.parametrize("template", ["auto", "raw"])
@pytest.mark.parametrize("name", ["tiny", "smollm2", "miniature"])
def test_a_templates_hash_needs_no_tokenizer(template: str, name: str, tmp_path: Path) -> None:
    folder = {"tiny": lambda: TINY, "smollm2": smollm2, "miniature": lambda: save_random_model(tmp_path)}
    place = folder[name]()
    assert (
        hash_of_template(template, tokenizer_outline(place))
        == ChatFormat(load_tokenizer(place), template).template_hash
    )


def words(folder: Path, end: str = "</s>", **config: Any) -> Path:
    """A tokenizer's files, with keys of ``tokenizer_config.json`` changed."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, end: 1, "a": 2, "U": 3}, unk_token="U")),
        bos_token="<s>",
        eos_token=end,
        unk_token="U",
    )
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


@pytest.mark.parametrize(
    "stated",
    [TEMPLATE, [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "x"}]],
    ids=["one", "several"],
)
def test_a_template_in_the_tokenizers_config_is_found(stated: Any, tmp_path: Path) -> None:
    folder = words(tmp_path, chat_template=stated)
    outline = tokenizer_outline(folder)
    assert hash_of_template("auto", outline) == ChatFormat(load_tokenizer(folder)).template_hash
    assert (outline.end_id, outline.tokens) == (1, len(load_tokenizer(folder)))


def test_vicunas_template_needs_vicunas_end(tmp_path: Path) -> None:
    folder = words(tmp_path / "vicuna")
    hashed = ChatFormat(load_tokenizer(folder), "vicuna").template_hash
    assert hash_of_template("vicuna", tokenizer_outline(folder)) == hashed
    with pytest.raises(Unclear):
        hash_of_template("vicuna", tokenizer_outline(words(tmp_path / "other", end="<end>")))


def test_files_of_an_older_layout_are_left_to_transformers(tmp_path: Path) -> None:
    (words(tmp_path) / "special_tokens_map.json").write_text("{}")
    with pytest.raises(Unclear):
        tokenizer_outline(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mixtral"},
        {"num_hidden_layers": None},
        {"tie_word_embeddings": "yes"},
        {"quantization_config": {"quant_method": "gptq"}},
        {"hidden_act": "relu"},
        {"rope_parameters": {"rope_type": "other"}},
        {"num_key_value_heads": 3},
    ],
)
def test_what_transformers_might_refuse_is_left_to_it(changes: dict[str, Any]) -> None:
    fields = json.loads((TINY / "config.json").read_text())
    assert stated_shape(fields).layers == 16
    with pytest.raises(Unclear):
        stated_shape(fields | changes)


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=tiny",),
        ("model=smollm2", "method=sam"),
        ("model=tiny", "method=autoregressive", "measure.eager=true"),
        ("model=tiny", "method=layerskip", "measure.sessions=2", "measure.control=true", "task.limit=3"),
        ("model=tiny", "runtime.dtype=bfloat16", "model.template=raw"),
        ("model=tiny", "model.weights=random", "runtime.tier=eager"),
    ],
)
def test_a_run_has_the_id_and_the_samples_that_the_workbench_gives_it(overrides: tuple[str, ...]) -> None:
    if "model=smollm2" in overrides:
        smollm2()
    settings = composed_settings(*overrides)
    prepared, outline = prepare_run(settings), outline_of(settings)
    assert outline.run_id == prepared.run.run_id
    assert outline.identity == prepared.run.identity
    assert {label for *_, label in outline.keys} == set(prepared.arms)


def test_a_run_of_several_methods_on_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    model, prompts = save_random_model(tmp_path / "m"), save_prompts(tmp_path / "p.jsonl", ["What?"])
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    settings = settings_for(model, prompts, tmp_path)
    assert outline_of(settings).run_id == prepare_run(settings).run.run_id
    assert "end_tokens" in outline_of(settings).identity
    arena = arena_of("[sam,{layerskip: {exit_layer: 2}}]", "model=tiny", "task.limit=1")
    assert outline_of(arena).run_id == prepare_run(arena).run.run_id


def test_settings_of_ones_own_are_told_from_shipped_ones() -> None:
    assert has_shipped_settings(composed_settings("method=kangaroo"))
    assert has_shipped_settings(composed_settings("method=sam", "model=vicuna_7b"))
    assert not has_shipped_settings(composed_settings("method=kangaroo", "method.draft_length=3"))
    assert has_shipped_settings(arena_of("[sam,kangaroo]", "model=tiny"))
    assert not has_shipped_settings(arena_of("[sam,{layerskip: {exit_layer: 2}}]", "model=tiny"))


def test_shapes_shipped_for_names_are_those_that_transformers_builds() -> None:
    for name in ("vicuna_7b", "llama3.2_1b", "llama2_70b", "mixtral_8x7b_instruct"):
        settings = composed_settings(f"model={name}", "method=sam", "bench.plan=true")
        decoder, is_here = find_empty(settings.model, options())
        size = estimate(settings).size
        assert decoder is not None
        assert size is not None
        assert not is_here
        assert size.weight_bytes == 4 * decoder.parameters
        assert size.pass_bytes == 4 * decoder.pass_parameters
