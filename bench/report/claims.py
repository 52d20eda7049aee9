"""What papers claim, beside what was measured here, or beside the reason why the two may not be compared.

One yaml file per paper under ``conf/paper``; its keys are those of `Paper` and `Claim`. A claim names its
method and model as ``conf/method`` and ``conf/model`` do where this benchmark has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.errors import UserError
from bench.report.board import Ranked, Section
from bench.report.tables import Table

PAPERS = Path(__file__).resolve().parents[2] / "conf" / "paper"
METRICS = ("speedup", "acceptance_length")
OVERALL = "overall"
UNKNOWN = "unknown"
DEVICE = r"unknown|(RTX )?[A-Z]{0,4}[0-9]{2,4}[A-Z]?"
"""Such as A100, MI300X, RTX 3090; what drivers report holds such a name as a word."""
CLAIM_HEADER = ("claim", "figure", "claimed", "measured here", "model, device, setting", "source")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser in C where PyYAML has it: the other takes a second for all papers."""

Figure = float | tuple[float, float]
"""A number, or the two ends of a range."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of a paper's table.

    Args:
        claim: What is claimed, in a few words.
        method: Whose figure it is.
        metric: ``speedup`` (end to end, over autoregressive decoding) or ``acceptance_length``.
        figures: By subtask, or by the paper's own data set; ``overall`` where there is one.
        model: Target model.
        device: GPU as its driver names it, without the maker, or ``unknown``.
        setting: Precision, sampling, lengths, baseline: what else one must know.
        source: Table, figure or page.
        tag: How sure the figure is, a key of the paper's `tags`.
        sampling: ``greedy``, or the sampling in words.
        questions: ``spec_bench`` where all six subtasks are its questions, else the data in words.
        dtype: Precision as torch names it; empty where the paper does not say.
        max_new_tokens: Most tokens of an answer; None where the paper does not say.
        params: Settings of the method that the figure belongs to, by the keys of its yaml.
    """

    claim: str
    method: str
    metric: str
    figures: Mapping[str, Figure]
    model: str
    device: str
    setting: str
    source: str
    tag: str
    sampling: str = "greedy"
    questions: str = "own data"
    dtype: str = ""
    max_new_tokens: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(DEVICE, self.device):
            raise ValueError(
                f"claim {self.claim!r}: no GPU is called {self.device!r}; put remarks into setting"
            )
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if not self.figures:
            raise ValueError(f"claim {self.claim!r} holds no figure")


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper or board and its claims.

    Args:
        title: Its title.
        reference: arXiv id or address.
        tags: What each tag of its claims means.
        claims: In the paper's order.
        remarks: What a reader must know about all of them.
    """

    title: str
    reference: str
    tags: Mapping[str, str]
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if unknown := sorted({claim.tag for claim in self.claims} - set(self.tags)):
            raise ValueError(f"{self.title}: tags {unknown} are not explained")


@dataclass(frozen=True, slots=True)
class MatchedClaim:
    """A claim beside our figures: the measured ones by column, or the reason why there are none."""

    claim: Claim
    measured: Mapping[str, float]
    reason: str


def load_papers(folder: Path = PAPERS) -> list[Paper]:
    """Every paper of a folder, by file name.

    Raises:
        UserError: If a file does not follow the schema; it names the file.
    """
    return [_load(path) for path in sorted(folder.glob("*.yaml"))]


def match_claim(claim: Claim, board: Sequence[Section]) -> MatchedClaim:
    """Our figures for a claim: those of the first section and entry that match it in every respect."""
    reason = "not measured"
    for section in board:
        for row in section.ranked:
            if row.entry.method != claim.method:
                continue
            reason = _obstacle(claim, section) or _other_params(claim, row)
            if not reason:
                return MatchedClaim(claim, _measured(claim, row), "")
    return MatchedClaim(claim, {}, reason)


def claim_table(paper: Paper, board: Sequence[Section]) -> Table:
    """A row per claim: what it says, what we measured or why we did not."""
    rows = tuple(claim_row(match_claim(claim, board)) for claim in paper.claims)
    return Table(f"{paper.title} ({paper.reference})", CLAIM_HEADER, rows)


def claim_row(matched: MatchedClaim) -> tuple[str, ...]:
    """The cells of `CLAIM_HEADER`."""
    claim = matched.claim
    ours = _listed(matched.measured, claim.metric) or matched.reason
    where = f"{claim.model}, {claim.device}; {claim.setting}"
    metric = claim.metric.replace("_", " ")
    return (claim.claim, metric, _listed(claim.figures, claim.metric), ours, where, _source(claim))


def _source(claim: Claim) -> str:
    return f"{claim.source} [{claim.tag}]"


def _listed(figures: Mapping[str, Figure], metric: str) -> str:
    """``1.50x`` for a figure over all questions, else ``mt_bench 1.68x, qa 1.43x``."""
    texts = {name: _figure(value, "x" if metric == "speedup" else "") for name, value in figures.items()}
    return (
        texts[OVERALL]
        if set(texts) == {OVERALL}
        else ", ".join(f"{name} {text}" for name, text in texts.items())
    )


def _figure(value: Figure, unit: str) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.2f}{unit} to {value[1]:.2f}{unit}"
    return f"{value:.2f}{unit}"


def _obstacle(claim: Claim, section: Section) -> str:
    """Why figures of a section do not compare with a claim; empty if they do."""
    setting = section.setting
    if setting.model != claim.model:
        return f"not comparable: measured on {setting.model}, claimed for {claim.model}"
    if setting.sampling != claim.sampling:
        return f"not comparable: measured with {setting.sampling}, claimed for {claim.sampling}"
    if claim.questions != "spec_bench" or setting.prompts != "official":
        return f"not comparable: measured on {setting.prompts} questions, claimed on {claim.questions}"
    if section.chat:
        return f"not comparable: measured on prompts with {section.chat}"
    if section.is_partial:
        return f"not comparable: measured on {section.questions}, claimed on all"
    if claim.dtype not in ("", setting.dtype):
        return f"not comparable: measured in {setting.dtype}, claimed for {claim.dtype}"
    if claim.max_new_tokens not in (None, setting.max_new_tokens):
        return (
            f"not comparable: measured with up to {setting.max_new_tokens} tokens, "
            f"claimed for up to {claim.max_new_tokens}"
        )
    if claim.metric == "speedup" and not _is_on(claim.device, setting.device):
        claimed = "an unknown device" if claim.device == UNKNOWN else claim.device
        return f"not comparable: measured on {setting.device}, claimed for {claimed}"
    return ""


def _is_on(device: str, name: str) -> bool:
    """Whether a driver's name of a GPU, such as ``NVIDIA A100-SXM4-80GB``, is that of this device."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(device)}(?![A-Za-z0-9])", name) is not None


def _other_params(claim: Claim, row: Ranked) -> str:
    """Why an entry's settings are not those of a claim; empty if they are."""
    for key, value in claim.params.items():
        measured = row.entry.params.get(key)
        if measured != value:
            return f"not comparable: measured with {key} {measured}, claimed for {value}"
    return ""


def _measured(claim: Claim, row: Ranked) -> dict[str, float]:
    """Our figures for the columns of a claim: end-to-end speedups, since papers time the whole answer, and
    acceptance lengths as Spec-Bench lists the method's steps.
    """
    summary, subtasks = row.entry.summary, row.entry.subtasks
    parts = {
        name: (part.speedup.end_to_end, part.acceptance_length_spec_bench) for name, part in subtasks.items()
    }
    parts[OVERALL] = (summary.speedup.end_to_end, summary.acceptance.spec_bench)
    figures: dict[str, float] = {}
    for name in claim.figures:
        interval, length = parts.get(name, (None, None))
        value = length if claim.metric == "acceptance_length" else interval.estimate if interval else None
        if value is not None:
            figures[name] = value
    return figures


def _load(path: Path) -> Paper:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
        if not isinstance(content, dict):
            raise TypeError("it is no mapping")
        tree: dict[str, Any] = {str(key): value for key, value in content.items()}
        claims = tuple(_claim(claim, tree.get("defaults", {})) for claim in tree["claims"])
        remarks = tuple(tree.get("remarks", ()))
        return Paper(tree["title"], tree["reference"], tree["tags"], claims, remarks)
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # yaml's takes several lines
        raise UserError(f"{path} is no list of claims: {reason}", "follow bench/report/claims.py") from error


def _claim(tree: Mapping[str, Any], defaults: Mapping[str, Any]) -> Claim:
    merged = {**defaults, **tree}
    figures = {
        key: tuple(value) if isinstance(value, list) else float(value)
        for key, value in merged["figures"].items()
    }
    return Claim(**{**merged, "figures": figures})
