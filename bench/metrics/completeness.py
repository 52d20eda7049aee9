"""Which samples of a run count for times: those of complete prompts, in finished repeats."""

from collections import Counter
from collections.abc import Sequence

from bench.records.model import Sample

LEAST_REPEATS = 2
"""Repeats without which there is no A/A control."""


def complete_prompts(samples: Sequence[Sample]) -> tuple[list[Sample], tuple[str, ...]]:
    """Samples of the prompts that are complete in every arm given, and the ids of the other prompts.

    Complete: every turn seen of the prompt holds a measurement in every repeat and every arm given.
    """
    arms, repeats = {sample.arm for sample in samples}, {sample.repeat for sample in samples}
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt_id, []).append(sample)
    complete = {
        prompt
        for prompt, group in by_prompt.items()
        if all(sample.error is None for sample in group)
        and len(group) == len({sample.turn for sample in group}) * len(repeats) * len(arms)
    }
    kept = [sample for sample in samples if sample.prompt_id in complete]
    return kept, tuple(sorted(by_prompt.keys() - complete))


def finished_repeats(samples: Sequence[Sample]) -> Sequence[Sample]:
    """All samples, or without the last repeats if those were begun and not finished.

    A complete run whose repeats are raised is extended prompt by prompt. Until that has ended, what it had
    before counts: the most repeats, at least two, that every prompt has in full. Without such a number, as in
    the first start of a run, all samples count.
    """
    cells = {(sample.prompt_id, sample.turn, sample.arm) for sample in samples}
    held = Counter(sample.repeat for sample in samples)
    finished = 0
    while held[finished] == len(cells) and cells:
        finished += 1
    if finished < LEAST_REPEATS or finished == len(held):
        return samples
    return [sample for sample in samples if sample.repeat < finished]
