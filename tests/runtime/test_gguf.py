"""GGUF files: the logits of the converted model, the weights that transformers reads, refusals by name."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config, SmolLM3Config

from bench.compose.identity import checkpoint_hash, module_hash, module_parameters, shape_hash
from bench.errors import UserError
from bench.measure.meters import turn_clock
from bench.outline.gguf_file import read_gguf_header
from bench.runtime.checkpoint_files import resolve, resolved_here
from bench.runtime.gguf import ARCHITECTURES, QUANTISATIONS, GgufTensors, read_gguf
from bench.runtime.loading import load_config, load_decoder
from bench.runtime.package_index import cached_model
from bench.runtime.random_weights import random_decoder
from bench.runtime.sampling import Sampler, Sampling
from bench.tasks.chat import ChatFormat
from bench.tasks.tokenizer import eos_ids, load_tokenizer
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget
from methods.two_model.draft import load_draft_model
from tests.runtime.gguf_files import BLOCK_TYPES, write_gguf
from tests.runtime.models import (
    CONFIGS,
    CPU,
    LLAMA3,
    LONGROPE,
    TINY,
    options,
    oracle_logits,
    tiny_model,
    tokens,
)

IDS = tokens(40)
Q8_0 = gguf.GGMLQuantizationType.Q8_0
ARCHITECTURE = {name: name for name in ARCHITECTURES} | {"mistral": "llama"}
"""By the model type of transformers."""
CONVERTED: dict[str, dict[str, Any]] = {
    "llama-mha": {},
    "llama-tied-one-kv-head": {},
    "llama-all-biases": {},
    "llama-linear-rope": {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
    "llama-yarn-rope": {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 12,
    },
    "llama-gqa-llama3-rope": {},
    "mistral-window-7": {"attention.sliding_window": 7},
    "mistral-no-window": {},
    "qwen2-biases": {},
    "qwen3-qk-norm": {},
    "qwen3-attention-bias": {},
    "phi3-fused": {"attention.sliding_window": 0},
    "phi3-partial-rotary": {},
    "phi3-longrope-short": {"attention.sliding_window": 11, "rope.scaling.original_context_length": 48},
    "gemma-tied-wide-heads": {},
    "granite-factors": {
        "embedding_scale": 3.0,
        "attention.scale": 0.2,
        "residual_scale": 0.4,
        "logit_scale": 5.0,
    },
    "olmo2-norms-after": {},
}
"""Configurations of `CONFIGS` that GGUF can hold, with the metadata that the converter adds to the shape."""
GEMMA3_27B = {**TINY, "num_hidden_layers": 62, "head_dim": 16, "query_pre_attn_scalar": 8}
WITH_CONSTANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "smollm3": (SmolLM3Config(**{**TINY, "num_hidden_layers": 5}), {}),
    "gemma3": (
        Gemma3TextConfig(
            **{**TINY, "num_hidden_layers": 7, "tie_word_embeddings": True},
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=5,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        ),
        {"attention.sliding_window": 5, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
    "gemma3 of 62 layers": (Gemma3TextConfig(**GEMMA3_27B), {"attention.sliding_window": 4096}),
}
"""Models of which llama.cpp has a part as constants, not in the file."""
WIDE = LlamaConfig(**{**TINY, "hidden_size": 256, "intermediate_size": 512})
READ_BY_TRANSFORMERS = {
    "llama": CONFIGS["llama-mha"],
    "qwen2": CONFIGS["qwen2-biases"],
    "qwen3": Qwen3Config(**TINY, head_dim=128),  # transformers takes this width whatever the file says
    "phi3": CONFIGS["phi3-fused"],
    # Its reader scales scores as for heads of this width.
    "gemma3": Gemma3TextConfig(**TINY, head_dim=256, sliding_window=5),
}


def logits(path: Path) -> Tensor:
    """Our logits of the last position, after all of the ids at once; shape [1, V]."""
    return load_decoder(path, options()).prefill(torch.tensor(IDS))


def converted(name: str, path: Path, kind: str = "F32") -> tuple[Any, Path]:
    config = CONFIGS[name]
    model = tiny_model(config)
    extra = {}
    if name == "llama-gqa-llama3-rope":
        extra["rope_freqs.weight"] = llama3_factors(config)
    if name == "phi3-longrope-short":
        for end in ("short", "long"):
            extra[f"rope_factors_{end}.weight"] = np.array(LONGROPE[f"{end}_factor"], dtype=np.float32)
    architecture, metadata = ARCHITECTURE[config.model_type], CONVERTED[name]
    return model, write_gguf(path / "model.gguf", model, architecture, kind, metadata=metadata, extra=extra)


def llama3_factors(config: Any) -> np.ndarray[Any, Any]:
    """What llama.cpp's converter makes of the rule `llama3`: a divisor for each frequency."""
    width = config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / LLAMA3["rope_theta"] ** (np.arange(0, width, 2, dtype=np.float32) / width)
    original, factor = LLAMA3["original_max_position_embeddings"], LLAMA3["factor"]
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    turns = original * frequencies / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def by_transformers(path: Path) -> Tensor:
    """The logits of transformers' own reading of the file."""
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    return oracle_logits(model.eval(), IDS)[-1:]


def assert_near(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert float((got - expected).abs().max()) <= tolerance


@pytest.mark.parametrize("name", CONVERTED)
def test_a_converted_model_has_the_logits_of_the_original(name: str, tmp_path: Path) -> None:
    model, path = converted(name, tmp_path)
    assert_near(logits(path), oracle_logits(model, IDS)[-1:], 1e-5)


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_what_llama_cpp_has_as_constants_is_not_left_out(name: str, tmp_path: Path) -> None:
    config, metadata = WITH_CONSTANTS[name]
    model = tiny_model(config)
    path = write_gguf(tmp_path / "model.gguf", model, name.partition(" ")[0], metadata=metadata)
    assert_near(logits(path), oracle_logits(model, IDS)[-1:], 1e-4)


@pytest.mark.parametrize("name", CONVERTED)
def test_a_quantised_model_has_the_logits_of_the_dequantised_original(name: str, tmp_path: Path) -> None:
    model, path = converted(name, tmp_path, "Q8_0")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and parameter.shape[1] % 32 == 0:
                blocks = gguf.quants.quantize(parameter.numpy(), Q8_0)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, Q8_0)))
    assert_near(logits(path), oracle_logits(model, IDS)[-1:])


class TestAgainstTransformers:
    @pytest.mark.parametrize("kind", ["F32", "Q4_1"])
    @pytest.mark.parametrize("architecture", READ_BY_TRANSFORMERS)
    def test_families(self, architecture: str, kind: str, tmp_path: Path) -> None:
        model = tiny_model(READ_BY_TRANSFORMERS[architecture])
        padding = {"tokenizer.ggml.padding_token_id": 0}  # Phi-3's default lies outside this vocabulary
        window = {"attention.sliding_window": 5} if architecture == "gemma3" else {}
        path = write_gguf(tmp_path / "model.gguf", model, architecture, kind, metadata=padding | window)
        assert_near(logits(path), by_transformers(path))

    @pytest.mark.parametrize("kind", QUANTISATIONS)
    def test_quantisations(self, kind: str, tmp_path: Path) -> None:
        path = write_gguf(tmp_path / "model.gguf", tiny_model(WIDE), "llama", kind)
        kinds = {tensor.tensor_type.name for tensor in read_gguf(path).tensors.values()}
        assert kinds == {"F32", kind}
        assert_near(logits(path), by_transformers(path))


def test_every_family_and_type_is_tried() -> None:
    tried = {ARCHITECTURE[CONFIGS[name].model_type] for name in CONVERTED}
    assert tried | {name.partition(" ")[0] for name in WITH_CONSTANTS} == set(ARCHITECTURES)
    assert set(BLOCK_TYPES) <= set(QUANTISATIONS)


class TestReading:
    def test_tensors_are_read_when_they_are_taken_and_only_once(self, tmp_path: Path) -> None:
        _, path = converted("llama-mha", tmp_path)
        tensors = GgufTensors(read_gguf(path), lambda _: CPU, torch.float16)
        taken = tensors.pop("model.norm.weight", None)
        assert taken is not None
        assert taken.dtype == torch.float16
        assert tensors.pop("model.norm.weight", None) is None
        assert "model.norm.weight" not in list(tensors)

    def test_half_precision(self, tmp_path: Path) -> None:
        _, path = converted("gemma-tied-wide-heads", tmp_path)
        assert load_decoder(path, options(torch.bfloat16)).dtype == torch.bfloat16

    def test_parameters_are_counted_without_reading_them(self, tmp_path: Path) -> None:
        model, path = converted("llama-mha", tmp_path)
        assert read_gguf_header(path).parameters == model.num_parameters()

    def test_random_weights_of_its_shape(self, tmp_path: Path) -> None:
        _, path = converted("qwen3-qk-norm", tmp_path)
        assert random_decoder(path, options()).depth == 3
        assert shape_hash(path).startswith("random-")

    def test_a_file_is_a_model_reference(self, tmp_path: Path) -> None:
        _, path = converted("llama-mha", tmp_path)
        assert resolve(str(path), None) == path
        assert resolved_here(str(path), None) == path

    def test_the_hash_tells_files_apart(self, tmp_path: Path) -> None:
        hashes = set()
        for kind in ("F32", "Q8_0"):
            hashes.add(checkpoint_hash(converted("llama-mha", tmp_path, kind)[1]))
        model = tiny_model(CONFIGS["llama-mha"], seed=1)
        hashes.add(checkpoint_hash(write_gguf(tmp_path / "other.gguf", model, "llama")))
        assert len(hashes) == 3
        assert checkpoint_hash(tmp_path / "other.gguf") in hashes

    def test_a_file_drafts_for_another(self, tmp_path: Path) -> None:
        model, path = converted("llama-mha", tmp_path)
        drafter = load_draft_model(path, load_decoder(path, options()))
        assert drafter.depth == 3
        assert module_hash(str(path)) == checkpoint_hash(path)
        assert module_parameters(str(path)) == model.num_parameters()

    def test_end_tokens_are_those_of_the_metadata(self, tmp_path: Path) -> None:
        ends = {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 3}
        path = write_gguf(
            tmp_path / "model.gguf",
            tiny_model(CONFIGS["llama-mha"]),
            "llama",
            metadata=ends,
            vocabulary=[*(chr(ord("!") + place) for place in range(60)), '!"'],
        )
        tokenizer = load_tokenizer(path)
        assert tokenizer('$#!"').input_ids == [3, 2, 60]
        assert eos_ids(path, tokenizer, [5]) == {2, 3, 5}
        assert load_config(path).eos_token_id == 2


class TestRefusals:
    def refusal(self, path: Path) -> UserError:
        with pytest.raises(UserError) as caught:
            load_decoder(path, options())
        return caught.value

    @pytest.mark.parametrize(
        ("architecture", "metadata", "named"),
        [
            ("mamba", {}, "architecture mamba is not supported"),
            ("llama", {"expert_count": 8}, "architecture llama with 8 experts is not supported"),
            ("llama", {"split.count": 2}, "one of several parts"),
            ("llama", {"rope.scaling.type": "spiral"}, "scaling 'spiral' is not supported"),
        ],
        ids=["architecture", "experts", "parts", "rope"],
    )
    def test_by_name(self, architecture: str, metadata: dict[str, Any], named: str, tmp_path: Path) -> None:
        model = tiny_model(CONFIGS["llama-mha"])
        error = self.refusal(write_gguf(tmp_path / "model.gguf", model, architecture, metadata=metadata))
        assert named in error.what
        assert error.fix

    def test_a_quantisation(self, tmp_path: Path) -> None:
        error = self.refusal(write_gguf(tmp_path / "model.gguf", tiny_model(WIDE), "llama", "TQ1_0"))
        assert "tensors of type TQ1_0 are not supported" in error.what
        assert "Q4_K" in error.fix

    def test_a_file_cut_short(self, tmp_path: Path) -> None:
        _, path = converted("llama-mha", tmp_path)
        path.write_bytes(path.read_bytes()[:-1000])
        assert "cannot be read as GGUF" in self.refusal(path).what

    def test_no_gguf_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(b"<html>not found</html>")
        assert "cannot be read as GGUF" in self.refusal(path).what

    def test_an_unknown_tensor_is_named(self, tmp_path: Path) -> None:
        extra = {"blk.0.attn_sinks.weight": np.zeros(4, dtype=np.float32)}
        path = write_gguf(tmp_path / "model.gguf", tiny_model(CONFIGS["llama-mha"]), "llama", extra=extra)
        assert "blk.0.attn_sinks.weight is unexpected" in self.refusal(path).what

    def test_no_tokenizer(self, tmp_path: Path) -> None:
        _, path = converted("llama-mha", tmp_path)
        with pytest.raises(UserError, match="cannot make a tokenizer of") as caught:
            load_tokenizer(path)
        assert "model.tokenizer" in caught.value.fix


@pytest.mark.slow
def test_the_published_file_answers_as_transformers_does() -> None:
    path = cached_model("smollm2")
    if path is None:
        pytest.skip("smollm2 is not in the cache: python -m bench.fetch smollm2")
    tokenizer = load_tokenizer(path)
    chat, ends = ChatFormat(tokenizer), eos_ids(path, tokenizer, [0, 2])
    oracle: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    method, clock = Autoregressive(), turn_clock(CPU)
    method.attach(load_decoder(path, options(max_length=512)))
    for question in ("What is the capital of France?", "Translate to German: good morning.", "Count to ten."):
        ids = torch.tensor(chat.prompt_ids([question], []))
        with torch.inference_mode(), clock:
            ours = method.generate(ids, Budget(24, ends), Sampler(Sampling(), CPU, 0), clock).ids
        theirs = oracle.generate(
            ids[None],
            attention_mask=torch.ones_like(ids)[None],
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=sorted(ends),
        )
        assert list(ours) == theirs[0, ids.numel() :].tolist(), question
