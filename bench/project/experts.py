"""What loading experts would cost a larger model on a GPU whose experts lie in the memory of its host.

The run says how many of the experts that rows needed were read on demand, and how many loads were predicted
ones. The device says how long a pass computes, the link how long an expert takes to be read. Nothing is
computed while an expert that is needed now is read; predicted loads are read while the layers compute, and
wait for demanded ones. So a token takes

    demanded loads x time of a load + max(computing, predicted loads x time of a load)

which is a projection and in the predictions' favour: a predicted expert is never late by more than the link
is busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import UserError
from bench.records.model import Sample

LINKS = {"pcie3": 13e9, "pcie4": 27e9, "pcie5": 55e9}
"""Bytes per second that large copies from pinned host memory reach over 16 lanes. An assumption, not measured
here: 85 % of the 15.75, 31.5 and 63 GB/s that remain of PCI-SIG's 8, 16 and 32 GT/s per lane after 128b/130b
coding. Packet headers take the rest.
"""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one method loaded for each expert that rows needed, while it decoded.

    Args:
        slots: Experts that its fast store had room for.
        demanded: Loads on demand.
        predicted: Other loads, those never used included.
    """

    slots: int
    demanded: float
    predicted: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Demand:
        """Pooled over samples.

        Raises:
            UserError: If none of them is of a method that loads experts.
        """
        counts = [sample.counts for sample in samples if sample.counts.get("experts_needed")]
        if not counts:
            raise UserError(
                "the run's method loads no experts",
                "name a run of methods that do, such as moe_lru and m2r2_moe",
            )
        needed, hit, late, loaded = (
            sum(count[f"experts_{name}"] for count in counts) for name in ("needed", "hit", "late", "loaded")
        )
        demanded = needed - hit - late
        return cls(counts[0]["expert_slots"], demanded / needed, max(0, loaded - demanded) / needed)


@dataclass(frozen=True, slots=True)
class Place:
    """A model on a device, with its experts across a link.

    Args:
        compute_s: Seconds of a pass of one row with all that it needs in the device's memory.
        needed: Experts that a row needs, of all layers together.
        experts: Experts of the model.
        expert_bytes: Of one expert.
        other_bytes: Of all other weights.
        link_bytes_per_s: Of the link to the host's memory.
    """

    compute_s: float
    needed: int
    experts: int
    expert_bytes: int
    other_bytes: int
    link_bytes_per_s: float

    @property
    def load_s(self) -> float:
        """Seconds that one expert takes over the link."""
        return self.expert_bytes / self.link_bytes_per_s

    @property
    def lead(self) -> float:
        """How many times as long as computing a token it takes to load all of its experts."""
        return self.needed * self.load_s / self.compute_s

    def token_s(self, demand: Demand) -> float:
        """Seconds of a token, see this module."""
        per_load = self.needed * self.load_s
        return demand.demanded * per_load + max(self.compute_s, demand.predicted * per_load)

    def stall(self, demand: Demand) -> float:
        """Share of a token's time in which nothing is computed."""
        return 1 - self.compute_s / self.token_s(demand)

    def memory_bytes(self, share: float) -> int:
        """Weights on the device with this share of the experts, cache and activations not counted."""
        return self.other_bytes + round(share * self.experts) * self.expert_bytes
