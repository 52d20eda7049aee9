"""What a table may say of a method's output: the one function to rewire when stronger evidence exists."""

from bench.metrics.run_figures import Summary
from bench.records.model import Verdict


def badge(summary: Summary) -> str:
    """A few words on the output, from the verdicts of the samples, never from the method's word alone.

    ``lossy`` output is named so whatever its verdicts are, with what its answers are worth. ``exact`` needs
    every sample compared and equal; ``proved`` a certificate of the source that was measured.
    """
    if summary.is_lossy:
        return _quality(summary)
    counts = summary.verdicts
    checked = sum(count for verdict, count in counts.items() if verdict is not Verdict.UNCHECKED)
    if counts[Verdict.VIOLATION]:
        return f"VIOLATION in {counts[Verdict.VIOLATION]} of {checked}"
    if not checked:
        promise = str(summary.run.labels.get("exactness", "exactness not stated"))
        return f"{promise}: declared, not checked"
    ties, unchecked = counts[Verdict.TIE_EXPLAINED], counts[Verdict.UNCHECKED]
    parts = [f"exact {counts[Verdict.EXACT]} of {checked}"]
    parts += [f"{ties} by ties"] if ties else []
    parts += [f"{unchecked} unchecked"] if unchecked else []
    parts += ["proved"] if summary.badge and summary.badge.endswith(": proved") else []
    return ", ".join(parts)


def _quality(summary: Summary) -> str:
    figures = summary.lossy
    if figures is None or figures.method_answers.share is None or figures.baseline_answers.share is None:
        return "lossy"
    own, target = figures.method_answers.share, figures.baseline_answers.share
    return f"lossy: {own:.0%} of answers right, the target's {target:.0%}"
