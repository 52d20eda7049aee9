"""Plain data of a benchmark: the prompts, what every round did, what was measured; no torch, files or clocks.

Records hold counts and times, never ratios; `bench.metrics.counts` computes those. Times are seconds (`_s`).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, get_args

from bench.records.rounds import Round as Round  # methods name this module for all that they return
from bench.records.rounds import Rounds

SCHEMA_VERSION = 2
"""Raised whenever a stored field changes its meaning; see `bench.records.codec.upgrade`."""

PhaseName = Literal["draft", "verify", "commit", "search"]
"""A phase of decode time; the rest is host time."""
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)

ARENA = "arena"
"""What a run of several methods has for a method's name."""

Key = tuple[str, int, int, str]
"""`Sample.key`: prompt id, turn, repeat, label."""


class Arm(StrEnum):
    """Which side of the comparison a sample belongs to."""

    BASELINE = "baseline"
    CONTROL = "control"
    """The baseline a second time, as an arm of its own: what differs from the baseline is noise."""
    METHOD = "method"
    EAGER = "eager"
    """Plain decoding by a textbook loop: shows what papers' speedups are over, and enters no headline."""


class Verdict(StrEnum):
    """How a method's output relates to the target's own."""

    EXACT = "exact"
    TIE_EXPLAINED = "tie-explained"
    VIOLATION = "violation"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Message:
    """What one side said: `role` is ``system``, ``user``, ``assistant`` or ``tool``.

    `extra` holds what chat templates read beside the text, such as ``tool_calls``.
    """

    role: str
    text: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question of a task, possibly with several turns.

    Args:
        id: Unique within the task.
        subtask: Column of the result table, such as ``translation``.
        turns: User messages in order.
        references: Reference answer per turn where the task has them.
        system: System message before the first turn; empty leaves it to the chat template.
        checks: Specification for `bench.tasks.checkers`, one per turn, where answers can be checked.
        opening: Messages given before the first answer, of which the first turn is the last; or none.
        tools: Descriptions of the tools that the model may call, in OpenAI's format.
    """

    id: str
    subtask: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()
    checks: tuple[Mapping[str, Any], ...] = ()
    system: str = ""
    opening: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.turns or not all(turn.strip() for turn in self.turns):
            raise ValueError(f"prompt {self.id}: turns must hold text, got {self.turns!r}")
        if self.opening and self.opening[-1].text != self.turns[0]:
            raise ValueError(f"prompt {self.id}: the opening must end in the first turn")

    @property
    def first_characters(self) -> int:
        """Characters of all that is given before the first answer."""
        given = [message.text for message in self.opening] or [self.turns[0]]
        return len(self.system) + sum(map(len, given))


@dataclass(frozen=True, slots=True)
class Generation:
    """What a method returns: every token it committed, the first from the prefill, the others from rounds."""

    ids: tuple[int, ...]
    rounds: tuple[Round, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    """The method's own counts by name, such as ``search_steps``, of all work done, so `cut` keeps them.

    ``kv_entries`` is set by methods that merge history: cache entries of the answer. Without it, every token
    of the answer but the newest has its own entry.
    """

    def __post_init__(self) -> None:
        emitted = 1 + sum(step.emitted for step in self.rounds)
        if emitted != len(self.ids):
            raise ValueError(f"prefill and rounds emitted {emitted} tokens, the output holds {len(self.ids)}")

    def cut(self, max_new_tokens: int, eos_ids: frozenset[int]) -> Generation:
        """The same generation, ended at its first end token and at `max_new_tokens` tokens at most.

        Rounds after the cut are dropped. The round that the cut falls into keeps its drafted and accepted
        counts, since that work was done, and emits less.
        """
        end = next((i + 1 for i, token in enumerate(self.ids) if token in eos_ids), len(self.ids))
        end = min(end, max_new_tokens)
        kept: list[Round] = []
        seen = 1
        for step in self.rounds:
            if seen >= end:
                break
            emitted = min(step.emitted, end - seen)
            kept.append(replace(step, emitted=emitted))
            seen += emitted
        return Generation(self.ids[:end], tuple(kept), self.counts)


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a turn's time went, in seconds.

    Args:
        prefill_s: From the start to the first token (time to first token).
        decode_s: From the first token to the last.
        phases_s: Decode time by phase (`PhaseName`); the rest of `decode_s` is host time.
        cpu_s: CPU time of the decoding thread; wall time well above it shows that other work took the cores.
        rounds_s: Of every round, from the end of one verification to the end of the next, the first from the
            start of its draft. An array of doubles; empty in older records, and where rounds and passes do
            not pair up.
    """

    prefill_s: float
    decode_s: float
    phases_s: Mapping[str, float]
    cpu_s: float
    rounds_s: array[float] = field(default_factory=lambda: array("d"))

    def __post_init__(self) -> None:
        times = (self.prefill_s, self.decode_s, *self.phases_s.values(), min(self.rounds_s, default=0.0))
        if not all(seconds >= 0 for seconds in times):
            raise ValueError(f"times must not be negative, the timer went back: {self}")

    @property
    def host_s(self) -> float:
        """Decode time outside every phase."""
        return max(0.0, self.decode_s - sum(self.phases_s.values()))


@dataclass(frozen=True, slots=True)
class Equivalence:
    """How an output compares with the baseline's for the same prompt.

    Args:
        verdict: Exact, explained by a numerical tie, a violation, or unchecked (lossy, sampled, or failed).
        first_divergence: Index of the first differing token, None when the ids are equal.
        margin: Largest gap, in logits, between the target's best token and an emitted one, teacher-forced.
        tie_margin: Top-1 minus top-2 logit of the target at the first divergence.
        rank: Rank of the emitted token in the target's logits at the first divergence (0 = best).
    """

    verdict: Verdict
    first_divergence: int | None = None
    margin: float = 0.0
    tie_margin: float | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn of one prompt, decoded once by one arm. A failure has `error` and no numbers."""

    prompt_id: str
    subtask: str
    turn: int
    repeat: int
    arm: Arm
    order: int
    """Place of this decode within its prompt and repeat (0 first): shows the interleaving."""
    prompt_tokens: int = 0
    prompt_hash: str = ""
    ids: tuple[int, ...] = ()
    text: str = ""
    rounds: Rounds = field(default_factory=Rounds.of)
    timing: Timing | None = None
    equivalence: Equivalence | None = None
    error: str | None = None
    peak_memory_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    energy_j: float | None = None
    """Of the whole GPU over prefill and decode, by NVML; None without it."""
    attempt: int = 0
    """Which start of the run measured this sample; each attempt has its own environment in ``run.json``."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """The method's own counts, see `Generation.counts`."""
    reference_nll: float | None = None
    """In runs of lossy methods: negative log-likelihood of `ids` under the target in nats."""
    is_right: bool | None = None
    """Whether the answer is right; None where the prompt has no check."""
    text_tokens: int | None = None
    """Length of `text` in tokens when tokenised anew, start token included; None in older records."""
    method: str = ""
    """In a run of several methods: the label of the one that decoded; empty for other arms and other runs."""
    session: int = 0
    """Number of its session (``measure.sessions``), from 0."""
    after: str = ""
    """Label of the arm that decoded before it in the same process; empty for the first, and if unknown."""
    started_at: float | None = None
    """When it began, in seconds since 1970; None in records of older code."""
    clock_s: float | None = None
    """When it began on the monotonic clock, which only counts within one attempt."""

    def __post_init__(self) -> None:
        if self.error is None and (not self.ids or self.timing is None):
            raise ValueError(f"sample {self.key} has no error, so it must hold ids and timing")
        if self.error is not None and (self.ids or self.timing is not None):
            raise ValueError(f"sample {self.key} has an error, so ids and timing must be empty")

    @property
    def kv_entries(self) -> int | None:
        """Cache entries of the answer, for methods that merge history; see `Generation.counts`."""
        return self.counts.get("kv_entries")

    @property
    def key(self) -> Key:
        """What makes a sample unique within a run: prompt, turn, repeat, label."""
        return (self.prompt_id, self.turn, self.repeat, self.label)

    @property
    def label(self) -> str:
        """The name of its arm within the run: of a method among several, the method's label."""
        return self.method or self.arm.value


@dataclass(frozen=True, slots=True)
class Run:
    """One comparison with the baseline on a task, of one method or, in an arena, of several.

    Args:
        run_id: See `bench.compose.schema.run_id`.
        method: Name of the method; ``arena`` where there are several.
        identity: Resolved settings that change ids or times.
        config: The whole resolved configuration.
        attempts: Environment block of every start of this run, oldest first.
    """

    run_id: str
    method: str
    task: str
    model: str
    identity: Mapping[str, Any]
    config: Mapping[str, Any]
    attempts: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Facts that tables must show, such as exactness, prompt source, ``partial`` and re-implementation."""
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of an arena, by label: a method's ``name`` and its part of ``identity`` and ``labels``."""
    schema_version: int = SCHEMA_VERSION


def canonical(identity: Mapping[str, Any]) -> str:
    """An identity as JSON text that does not depend on the order of its keys.

    Raises:
        ValueError: If it holds something that is not plain JSON.
    """
    try:
        return json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the identity of a run must be plain JSON: {error}") from error


_LATER_SIZES = {"draft_vocab": None, "mlp_width": None, "micro_mlp_width": None, "rank": None, "blocks": 1}
LATER_SETTINGS = {**_LATER_SIZES, "own_lm_heads": True, "authors_updates": False, "soft": False}
"""Settings of methods that came after the first records, and the value that means what was done before."""


def original_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings as earlier records have them, without the list of frequent tokens, a place."""
    later = {"frequent_tokens": params.get("frequent_tokens"), **LATER_SETTINGS}
    return {key: value for key, value in params.items() if key not in later or value != later[key]}
