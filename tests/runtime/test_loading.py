"""Checkpoints load strictly: what does not fit is named with its fix, and nothing is guessed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3TextConfig, GPTNeoXConfig, GraniteConfig, Qwen2Config, SmolLM3Config

from bench.errors import UserError
from bench.runtime.checkpoint_files import weight_files
from bench.runtime.decoder import Decoder
from bench.runtime.families import FAMILIES, Alternate
from bench.runtime.loading import load_config, load_decoder
from bench.runtime.model_config import decoder_config
from bench.runtime.modules import weight_bytes
from tests.runtime.models import CONFIGS, CONTEXT, GEMMA3, TINY, options, oracle_logits, tiny_model, tokens
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.models import decoder_on
from tests.runtime.pretended_cuda.tensors import CUDA

IDS = tokens(20)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A saved Llama checkpoint that a test may spoil."""
    tiny_model(CONFIGS["llama-mha"]).save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


PUBLISHED_GEMMA3 = ("rope_theta", "rope_local_base_freq", "sliding_window_pattern")
"""Keys of Gemma 3's published config.json that transformers 5 writes in another form."""


def rewrite_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(folder: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        load_decoder(folder, options())
    return caught.value


def stored_bytes(decoder: Decoder) -> int:
    """Memory of all weights of a decoder, shared ones once."""
    tensors = [decoder.embedding, decoder.final_norm]
    for layer in decoder.layers:
        assert layer.mlp is not None
        tensors += [layer.attention.norm, layer.mlp.norm]
    for linear in [decoder.lm_head, *(linear for layer in decoder.layers for linear in layer.projections())]:
        product = linear.compiled or linear._multiplier
        tensors += [linear._weight, getattr(product, "_transposed", None), getattr(product, "_packed", None)]
    held = [tensor for tensor in tensors if tensor is not None]
    shared = {id(tensor) if tensor.is_mkldnn else tensor.data_ptr(): tensor for tensor in held}
    return sum(tensor.numel() * tensor.element_size() for tensor in shared.values())


class TestRoom:
    @pytest.mark.parametrize("products", ["compiled", "torch"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    @pytest.mark.parametrize("name", ["llama-mha", "llama-tied-one-kv-head", "phi3-fused"])
    def test_it_counts_every_copy_of_the_weights_that_is_made(
        self,
        name: str,
        dtype: torch.dtype,
        products: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if products == "torch":
            request.getfixturevalue("torch_products")
        monkeypatch.setattr("bench.runtime.linear.PACKED_SIZE", 1)
        tiny_model(CONFIGS[name]).save_pretrained(tmp_path)
        counted = weight_bytes(weight_files(tmp_path), torch.device("cpu"), dtype)
        decoder = load_decoder(tmp_path, options(dtype))
        padding = decoder.embedding[:3].nbytes if decoder.lm_head.compiled else 0  # 64 rows for 61 tokens
        assert stored_bytes(decoder) == counted + padding

    def test_a_gpu_holds_them_once(self, llama: Path) -> None:
        counted = weight_bytes(weight_files(llama), torch.device("cuda"), torch.float16)
        assert counted == 2 * sum(
            tensor.numel() for tensor in load_file(llama / "model.safetensors").values()
        )


class TestPrecisions:
    @pytest.mark.parametrize("name", CONFIGS)
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)], ids=["fp16", "bf16"]
    )
    def test_half_precision_is_near_the_fp32_oracle(
        self, tmp_path: Path, name: str, dtype: torch.dtype, tolerance: float
    ) -> None:
        model = tiny_model(CONFIGS[name])
        model.save_pretrained(tmp_path)
        expected = oracle_logits(model, IDS)[-6:]
        decoder = load_decoder(tmp_path, options(dtype))
        decoder.prefill(torch.tensor(IDS[:-6]))
        got = decoder.step(torch.tensor(IDS[-6:]), len(IDS) - 6)
        assert got.dtype == decoder.dtype == dtype
        assert float((got.float() - expected).norm() / expected.norm()) < tolerance

    def test_a_checkpoint_stored_in_bf16_runs_in_fp32(self, tmp_path: Path) -> None:
        model = tiny_model(CONFIGS["qwen2-biases"])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())
        expected = oracle_logits(model, IDS)[-1:]
        model.bfloat16().save_pretrained(tmp_path)
        got = load_decoder(tmp_path, options()).prefill(torch.tensor(IDS))
        assert float((got - expected).abs().max()) <= 1e-5


class TestLength:
    @pytest.mark.parametrize(
        ("max_length", "capacity"),
        [(10, 10), (10_000, CONTEXT)],
        ids=["the given length", "never past the context"],
    )
    def test_capacity(self, llama: Path, max_length: int, capacity: int) -> None:
        decoder = load_decoder(llama, options(max_length=max_length))
        assert decoder.capacity == decoder.placement.capacity == capacity


class TestFiles:
    def test_shards_equal_one_file(self, tmp_path: Path) -> None:
        model = tiny_model(CONFIGS["llama-gqa-llama3-rope"])
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(weight_files(tmp_path)) > 2
        got = load_decoder(tmp_path, options()).prefill(torch.tensor(IDS))
        assert float((got - oracle_logits(model, IDS)[-1:]).abs().max()) <= 1e-5

    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        tiny_model(CONFIGS["llama-mha"]).save_pretrained(tmp_path, max_shard_size="20KB")
        lost = weight_files(tmp_path)[1]
        lost.unlink()
        error = refusal(tmp_path)
        assert lost.name in error.what
        assert "finish the download" in error.fix

    def test_a_file_cut_short(self, llama: Path) -> None:
        file = llama / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        assert f"{file} is damaged or cut short" in refusal(llama).what

    def test_pickled_weights_are_refused_with_the_way_to_convert(self, llama: Path) -> None:
        (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
        error = refusal(llama)
        assert "pickled .bin" in error.what
        assert "python -m bench.convert kind=checkpoint" in error.fix

    def test_no_weights(self, llama: Path) -> None:
        (llama / "model.safetensors").unlink()
        assert "holds no model.safetensors" in refusal(llama).what

    def test_no_config(self, llama: Path) -> None:
        (llama / "config.json").unlink()
        assert "holds no config.json" in refusal(llama).what

    @pytest.mark.parametrize(
        ("text", "what", "fix"),
        [
            ("{", "config.json is not valid JSON", "download it again"),
            ('{"model_type": "a-model-of-2031"}', "model_type 'a-model-of-2031' is not", "LlamaForCausalLM"),
            ("{}", "model_type None is not supported", "LlamaForCausalLM"),
            ("[]", "config.json holds a JSON list, not an object", "download it again"),
        ],
        ids=["no json", "unknown type", "empty", "list"],
    )
    def test_a_config_that_says_nothing_usable(self, llama: Path, text: str, what: str, fix: str) -> None:
        (llama / "config.json").write_text(text)
        error = refusal(llama)
        assert what in error.what
        assert fix in error.fix


class TestTensors:
    def test_missing_tensors_are_named_together(self, llama: Path) -> None:
        def drop(tensors: dict[str, torch.Tensor]) -> None:
            del tensors["model.layers.1.mlp.up_proj.weight"]
            del tensors["model.norm.weight"]

        rewrite(llama, drop)
        error = refusal(llama)
        assert "model.layers.1.mlp.up_proj.weight is missing; model.norm.weight is missing" in error.what
        assert "same model" in error.fix

    def test_unexpected_tensors_are_named(self, llama: Path) -> None:
        rewrite(llama, lambda tensors: tensors.update({"model.layers.3.mlp.up_proj.weight": torch.zeros(1)}))
        assert "model.layers.3.mlp.up_proj.weight is unexpected" in refusal(llama).what

    def test_misshapen_tensors_are_named_with_both_shapes(self, llama: Path) -> None:
        name = "model.layers.0.self_attn.q_proj.weight"
        rewrite(llama, lambda tensors: tensors.update({name: torch.zeros(32, 31)}))
        assert f"{name} has shape (32, 31) instead of (32, 32)" in refusal(llama).what

    def test_many_problems_are_counted(self, llama: Path) -> None:
        rewrite_config(llama, num_hidden_layers=4)
        error = refusal(llama)
        assert error.what.count("is missing") == 6
        assert "and 3 more" in error.what

    def test_a_bias_the_config_asks_for_must_be_there(self, tmp_path: Path) -> None:
        tiny_model(CONFIGS["qwen2-biases"]).save_pretrained(tmp_path)
        names = [f"model.layers.2.self_attn.{name}_proj.bias" for name in "qkv"]
        rewrite(tmp_path, lambda tensors: [tensors.pop(name) for name in names])
        error = refusal(tmp_path)
        assert all(f"{name} is missing" in error.what for name in names)

    def test_a_bias_the_config_knows_nothing_of_is_unexpected(self, llama: Path) -> None:
        name = "model.layers.0.mlp.down_proj.bias"
        rewrite(llama, lambda tensors: tensors.update({name: torch.zeros(32)}))
        assert f"{name} is unexpected" in refusal(llama).what

    def test_tables_that_old_checkpoints_carry_are_ignored(self, llama: Path) -> None:
        name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        rewrite(llama, lambda tensors: tensors.update({name: torch.zeros(4)}))
        assert load_decoder(llama, options()).depth == 3


class TestFamilies:
    def test_an_architecture_outside_the_table_lists_the_supported_ones(self, tmp_path: Path) -> None:
        GPTNeoXConfig(architectures=["GPTNeoXForCausalLM"]).save_pretrained(tmp_path)
        error = refusal(tmp_path)
        assert error.what == "architecture GPTNeoXForCausalLM is not supported by the decoder"
        assert all(name in error.fix for name in FAMILIES)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"hidden_act": "relu"}, "activation 'relu' of LlamaForCausalLM is not supported"),
            ({"hidden_act": "gelu"}, "activation 'gelu' of LlamaForCausalLM is not supported"),
            ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"is quantised \(gptq\)"),
        ],
        ids=["relu", "exact gelu", "quantised"],
    )
    def test_options_that_would_run_wrongly_are_refused(
        self, llama: Path, changes: dict[str, Any], message: str
    ) -> None:
        rewrite_config(llama, **changes)
        with pytest.raises(UserError, match=message):
            load_decoder(llama, options())

    def test_layers_of_unknown_attention_are_refused(self) -> None:
        config = Qwen2Config(
            **TINY, use_sliding_window=True, sliding_window=8, architectures=["Qwen2ForCausalLM"]
        )
        config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
        with pytest.raises(UserError, match=r"layers of the attention types .*'chunked_attention'") as caught:
            decoder_config(config)
        assert "sliding_attention" in caught.value.fix

    def test_layers_of_three_kinds_are_refused(self) -> None:
        kinds = ["full_attention", "sliding_attention", "full_attention"]
        config = SmolLM3Config(
            **TINY, use_sliding_window=True, sliding_window=8, no_rope_layers=[1, 1, 0], layer_types=kinds
        )
        with pytest.raises(UserError, match="layers of 3 kinds, by window and rotation"):
            decoder_config(config)

    def test_drafters_share_the_layers_that_rotate_and_see_everything(self) -> None:
        shape = decoder_config(CONFIGS["smollm3-still-layers-in-a-window"])
        assert shape.window is None
        assert shape.alternate == Alternate(frozenset({1}), window=6, rotates=False)
        assert shape.shortest_window == 6
        still = SmolLM3Config(**TINY, no_rope_layers=[0, 0, 0])
        assert decoder_config(still).alternate == Alternate(frozenset({0, 1, 2}), None, rotates=False)

    @pytest.mark.parametrize(
        ("kind", "changes", "message"),
        [
            ("granite", {"logits_scaling": 0}, "logits_scaling is '0', it must be a number above 0"),
            ("granite", {"residual_multiplier": "x"}, "residual_multiplier is 'x'"),
            ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers names 1 layers of 3"),
            (
                "gemma3",
                {"final_logit_softcapping": 30.0},
                "final_logit_softcapping of Gemma3ForCausalLM",
            ),
            ("gemma3", {"rope_local_base_freq": -1}, "rope_local_base_freq is '-1'"),
            (
                "gemma3",
                {"rope_parameters": {"full_attention": {"rope_type": 3}}},
                "full_attention: rope_type",
            ),
            ("gemma3", {"model_type": "gemma3"}, "model_type 'gemma3' is not supported by the decoder"),
        ],
    )
    def test_odd_values_of_a_family_are_named(
        self, tmp_path: Path, kind: str, changes: dict[str, Any], message: str
    ) -> None:
        make = {"granite": GraniteConfig, "smollm3": SmolLM3Config, "gemma3": Gemma3TextConfig}[kind]
        make(**TINY).save_pretrained(tmp_path)
        rewrite_config(tmp_path, **changes)
        with pytest.raises(UserError, match=message):
            load_config(tmp_path)

    @pytest.mark.parametrize(
        ("name", "window"),
        [("mistral-window-7", 7), ("mistral-no-window", None), ("qwen2-biases", None), ("llama-mha", None)],
    )
    def test_windows(self, tmp_path: Path, name: str, window: int | None) -> None:
        tiny_model(CONFIGS[name]).save_pretrained(tmp_path)
        assert load_decoder(tmp_path, options()).config.window == window

    def test_gemma_3_in_its_published_form(self, tmp_path: Path) -> None:
        model = tiny_model(CONFIGS["gemma3-local-and-global"])
        model.save_pretrained(tmp_path)
        expected = oracle_logits(model, tokens(12))[-1:]
        written = json.loads((tmp_path / "config.json").read_text())
        assert "rope_local_base_freq" not in written  # it is saved in a newer form
        del written["rope_parameters"], written["layer_types"]
        (tmp_path / "config.json").write_text(json.dumps(written))
        rewrite_config(tmp_path, **{name: GEMMA3[name] for name in PUBLISHED_GEMMA3}, rope_scaling=None)
        got = load_decoder(tmp_path, options()).prefill(torch.tensor(tokens(12)))
        assert torch.allclose(got, expected, atol=1e-5)

    def test_gemmas_first_configs_mean_the_tanh_form(self) -> None:
        gemma = CONFIGS["gemma-tied-wide-heads"].to_dict()
        gemma.update(hidden_act="gelu", hidden_activation=None, architectures=["GemmaForCausalLM"])
        assert decoder_config(type(CONFIGS["gemma-tied-wide-heads"])(**gemma)).activation == "gelu_tanh"


def test_on_a_gpu_slow_and_inexact_kernels_are_left_out() -> None:
    products = torch.backends.cuda.matmul
    before = torch.backends.cuda.cudnn_sdp_enabled(), products.allow_bf16_reduced_precision_reduction
    try:
        with PretendedCuda():
            decoder_on(3, CUDA, "static")
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert not products.allow_bf16_reduced_precision_reduction
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before[0])
        products.allow_bf16_reduced_precision_reduction = before[1]
