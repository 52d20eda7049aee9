"""Reads the weights of a layer's mixture of experts from a checkpoint's tensors.

Checkpoints store every expert's matrices one by one, under two sets of names; transformers keeps them in
memory, and saves them on request, as one tensor of all experts of a layer.

Shapes: d width, E experts, f width of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bench.runtime.families import MoeConfig
from bench.runtime.linear import Linear
from bench.runtime.modules import CheckpointTensors
from bench.runtime.moe import Expert, Moe, ResidentExperts


@dataclass(frozen=True, slots=True)
class _Names:
    """How checkpoints call the parts of a mixture of experts."""

    block: str
    gate: str
    up: str
    down: str


_USUAL = _Names("mlp", "gate_proj", "up_proj", "down_proj")
_MIXTRAL = _Names("block_sparse_moe", "w1", "w3", "w2")


def read_moe(tensors: CheckpointTensors, config: MoeConfig, width: int, prefix: str, norm: Tensor) -> Moe:
    """The mixture of experts of one layer.

    Args:
        tensors: Of the checkpoint; its parts are taken.
        config: Its shape.
        width: Of the model (d).
        prefix: Of the layer's names.
        norm: Weight of the norm before it, shape [d].
    """
    names = _MIXTRAL if tensors.holds(f"{prefix}.{_MIXTRAL.block}.gate.weight") else _USUAL
    block = f"{prefix}.{names.block}"
    shared = gate = None
    if config.shared_width:
        shared = _expert(tensors, f"{block}.shared_expert", names, config.shared_width, width)
        if config.has_shared_gate:
            gate = tensors.linear(f"{block}.shared_expert_gate", (1,), width)
    return Moe(
        norm=norm,
        router=tensors.linear(f"{block}.gate", (config.experts,), width),
        experts=_experts(tensors, f"{block}.experts", names, config, width),
        config=config,
        shared=shared,
        shared_gate=gate,
    )


def _experts(
    tensors: CheckpointTensors, block: str, names: _Names, config: MoeConfig, width: int
) -> ResidentExperts:
    count, inner = config.experts, config.expert_width
    if tensors.holds(f"{block}.gate_up_proj"):
        gate_up = tensors.take(f"{block}.gate_up_proj", count, 2 * inner, width)
        down = tensors.take(f"{block}.down_proj", count, width, inner)
        pairs = zip(gate_up, down, strict=True)
        return ResidentExperts(Expert(Linear(first), Linear(second)) for first, second in pairs)
    return ResidentExperts(
        _expert(tensors, f"{block}.{number}", names, inner, width) for number in range(count)
    )


def _expert(tensors: CheckpointTensors, prefix: str, names: _Names, inner: int, width: int) -> Expert:
    gate_up = [f"{prefix}.{names.gate}", f"{prefix}.{names.up}"]
    return Expert(
        gate_up=tensors.linear(gate_up, (inner,) * 2, width),
        down=tensors.linear(f"{prefix}.{names.down}", (width,), inner),
    )
