"""Miniature checkpoints in the layouts that authors published: their file names, keys and precisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.runtime.decoder import Decoder
from methods.hamburger.module import HamburgerModel
from methods.kangaroo.module import Adapter
from methods.medusa.draft import HeadLayout
from methods.medusa.module import MedusaHeads
from tests.methods.small import FAMILIES

CONFIG = FAMILIES["llama"]
State = dict[str, Tensor]


def plain_config(**changes: Any) -> dict[str, Any]:
    return CONFIG.to_dict() | {"architectures": ["LlamaForCausalLM"]} | changes


def save_config(folder: Path, **changes: Any) -> Path:
    """The target's ``config.json``, all that most conversions read of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(plain_config(**changes)))
    return folder


def randomised(state: State, seed: int, dtype: torch.dtype) -> State:
    """Random values for every tensor, so that a mixed-up pair shows: a zero bias looks like any other."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(tensor.shape, generator=generator) * 0.3).to(dtype)
        for name, tensor in state.items()
    }


def medusa_heads(decoder: Decoder, heads: int = 5, layout: HeadLayout | None = None) -> State:
    return randomised(
        MedusaHeads(decoder.config.width, decoder.config.vocab, layout or HeadLayout(heads)).state_dict(),
        1,
        torch.bfloat16,
    )


def save_medusa(folder: Path, state: State, name: str = "medusa_lm_head.pt") -> Path:
    """FasterDecoding/medusa-vicuna-*-v1.3: five heads, and a config that says two."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / name) if name.endswith(".safetensors") else torch.save(state, folder / name)
    config = {
        "base_model_name_or_path": "lmsys/vicuna-7b-v1.3",
        "medusa_num_heads": 2,
        "medusa_num_layers": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def kangaroo_adapter(decoder: Decoder) -> State:
    config = decoder.config
    adapter = Adapter(config.width, config.heads, config.kv_heads, config.head_dim, config.norm_eps)
    return randomised(adapter.state_dict(), 2, torch.float16)


def save_kangaroo(folder: Path, state: State, **config: Any) -> Path:
    """The authors' download: six keys, with or without the prefix ``module.``, and a config of one layer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")
    return save_config(folder, **({"num_hidden_layers": 1} | config))


def hamburger_state(model: HamburgerModel) -> State:
    """The state dict as Lightning saves it: micro layers in fp32, the rest bf16; the embedding thrice."""
    state = {
        name: value.detach().to(
            torch.float32 if name.startswith("micro_step_decoder.decoders.") else torch.bfloat16
        )
        for name, value in model.state_dict().items()
    }
    embedding = state["model.model.embed_tokens.weight"]
    return state | {"comp_embedder.embedding.weight": embedding, "model.lm_head.weight": embedding}


def save_lightning(file: Path, state: State, max_steps: int = 4) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = {"base_model_name": "meta-llama/Llama-3.2-1B-Instruct", "max_steps": max_steps}
    torch.save(
        {
            "epoch": 0,
            "global_step": 3,
            "state_dict": state,
            "optimizer_states": [{"state": {}, "param_groups": []}],
            "hyper_parameters": settings | {"distill_kl": None},
        },
        file,
    )
    return file


_GPT_FAST = {
    "model.embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gpt_fast_state(state: State, heads: int, kv_heads: int) -> State:
    """The same in gpt-fast's layout: its names, q, k and v fused, the rows of a head in its rotary order."""
    renamed: State = {}
    for name, tensor in state.items():
        if ".q_proj." in name and "self_attn" in name:
            key, value = (state[name.replace("q_proj", f"{part}_proj")] for part in "kv")
            fused = torch.cat([neighbours(tensor, heads), neighbours(key, kv_heads), value])
            renamed[_gpt_fast_name(name.replace("self_attn.q_proj", "attention.wqkv"))] = fused
        elif not ("self_attn" in name and (".k_proj." in name or ".v_proj." in name)):
            renamed[_gpt_fast_name(name)] = tensor
    return renamed


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """Row i and row i + D / 2 of a head become neighbours; written out, not as the converter does it."""
    rows = weight.shape[0] // heads
    order = [
        head * rows + half * rows // 2 + i
        for head in range(heads)
        for i in range(rows // 2)
        for half in (0, 1)
    ]
    return weight[order]


def _gpt_fast_name(name: str) -> str:
    for ours, theirs in _GPT_FAST.items():
        name = name.replace(ours, theirs)
    return name.replace("model.model.", "model.")
