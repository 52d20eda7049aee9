"""What a table may say of a method's output: the one function to rewire when stronger evidence exists."""

from bench.records import Verdict
from bench.table import Summary


def badge(summary: Summary) -> str:
    """A few words on the output, from the verdicts of the samples, never from the method's word alone.

    ``lossy`` output is named so whatever its verdicts are. ``exact`` needs every sample compared and equal.
    """
    if summary.is_lossy:
        return "lossy"
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
    return ", ".join(parts)
