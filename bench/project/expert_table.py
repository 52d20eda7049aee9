"""The projection of a run of methods that load experts, as a table: ``bench.project RUN as=experts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.outline.experts import experts_in_all
from bench.plan.devices import GPUS
from bench.project.experts import Demand, Place
from bench.records.model import Arm, Run, Sample
from bench.records.views import of_method, samples_of
from bench.show.layout import byte_size, markdown_table

if TYPE_CHECKING:
    from bench.runtime.decoder import Decoder

ON_DEMAND = "moe_lru"
HEADER = ("method", "experts in memory", "weights there", "tokens/s", "waiting", "over moe_lru")


@dataclass(frozen=True, slots=True)
class Policy:
    """One method of a run.

    Args:
        label: Its label in the run.
        method: Its name.
        share: Of the model's experts that its fast store had room for.
        demand: What it loaded.
    """

    label: str
    method: str
    share: float
    demand: Demand


def policies_of(run: Run, samples: Sequence[Sample]) -> list[Policy]:
    """Every method of a run that loads experts, by share of experts in memory.

    Raises:
        UserError: If a method loads none, or nothing says how many experts the run's model has.
    """
    found = []
    for label in run.methods or {"": {}}:
        part, own = (of_method(run, label), samples_of(samples, label)) if label else (run, samples)
        decoded = [sample for sample in own if sample.arm is Arm.METHOD]
        demand = Demand.of(decoded)
        counted = next(iter(sample.counts.get("experts_in_all") for sample in decoded if sample.counts), None)
        total = experts_in_all(counted, run)
        if not total:
            raise UserError(
                f"run {run.run_id} does not say how many experts {run.model} has",
                "measure it again: newer records count them",
            )
        found.append(Policy(label or run.method, part.method, demand.slots / total, demand))
    return sorted(found, key=lambda policy: policy.share)


def place_of(decoder: Decoder, compute_s: float, link_bytes_per_s: float) -> Place:
    """The model on a device where a pass of one row takes `compute_s`.

    Raises:
        UserError: If the model has no experts.
    """
    from bench.runtime.experts.placement import mixtures_of  # loads torch

    mixtures = mixtures_of(decoder).values()
    width = decoder.dtype.itemsize
    expert = next(iter(mixtures)).experts.parameters
    experts = sum(moe.config.experts for moe in mixtures)
    return Place(
        compute_s=compute_s,
        needed=sum(moe.config.top_k for moe in mixtures),
        experts=experts,
        expert_bytes=expert * width,
        other_bytes=(decoder.parameters - experts * expert) * width,
        link_bytes_per_s=link_bytes_per_s,
    )


def expert_table(policies: Sequence[Policy], place: Place, memory_bytes: int) -> list[str]:
    """A row per method: speed, waiting, and speed over loading on demand into a store of the same size."""
    on_demand = {policy.share: policy.demand for policy in policies if policy.method == ON_DEMAND}
    rows = []
    for policy in policies:
        weights = place.memory_bytes(policy.share)
        base = on_demand.get(policy.share)
        rows.append(
            (
                policy.label,
                f"{policy.share:.0%}",
                byte_size(weights) + (" (does not fit)" if weights > memory_bytes else ""),
                f"{1 / place.token_s(policy.demand):.2f}",
                f"{place.stall(policy.demand):.0%}",
                f"{place.token_s(base) / place.token_s(policy.demand):.2f}x" if base else "-",
            )
        )
    return markdown_table(HEADER, rows)


def lead_there(run: Run, samples: Sequence[Sample]) -> float:
    """How many times as long as computing a token the run's machine took to load all experts of a token."""
    baseline = [sample for sample in samples if sample.arm is Arm.BASELINE and sample.timing]
    computing = sum(sample.timing.decode_s for sample in baseline if sample.timing)
    computing /= sum(len(sample.ids) - 1 for sample in baseline)
    loading = [sample for sample in samples if sample.counts.get("experts_loaded")]
    needed, read, loaded = (
        sum(sample.counts[name] for sample in loading)
        for name in ("experts_needed", "expert_bytes", "experts_loaded")
    )
    tokens = sum(len(sample.ids) - 1 for sample in loading)
    settings = [part["method"] for part in run.methods.values()] or [run.identity["method"]]
    rate = 1e6 * float(settings[0]["megabytes_per_s"])
    return needed / tokens * read / loaded / rate / computing


def assumptions(place: Place, model: str, there: float, names: Mapping[str, str]) -> list[str]:
    """What stands above the table: what was assumed, and how far the run's machine was from it.

    Args:
        place: The model on the device.
        model: Of the run.
        there: See `lead_there`.
        names: The settings of the command.
    """
    device = GPUS[names["device"]].title
    load, whole = byte_size(place.expert_bytes), byte_size(place.memory_bytes(1.0))
    return [
        f"PROJECTION to {names['model']} on {device}, experts in host memory over {names['link']} at "
        f"{place.link_bytes_per_s / 1e9:.0f} GB/s.",
        "Nothing was run there. Assumed:",
        f"- loads per needed expert are those of {model} at the same share of experts in memory;",
        "- predicted loads overlap with computing and never delay demanded ones; demanded loads overlap with "
        "nothing;",
        f"- a pass computes for {1e3 * place.compute_s:.2f} ms (data sheet, {names['loop']} loop), an expert "
        f"of {load} takes {1e3 * place.load_s:.2f} ms.",
        f"To load all {place.needed} experts of a token takes {place.lead:.1f} times as long as to compute "
        f"it, where the run was measured {there:.1f} times.",
        f"With all experts in memory, {whole}: {1 / place.compute_s:.0f} tokens/s.",
    ]
