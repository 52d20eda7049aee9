"""What must hold between the counts of one sample."""

from bench.metrics.counts import accepted_counts, is_cut
from bench.records.model import Sample


def check_identities(sample: Sample) -> None:
    """Hold a sample's counts against each other; the runner calls this before it stores a sample.

    Raises:
        ValueError: If prefill plus rounds do not emit exactly the ids, if a round before the last one was
            cut, or if the cache entries or the histogram of accepted lengths disagree with the rounds.
    """
    emitted = 1 + sum(one.emitted for one in sample.rounds)
    if emitted != len(sample.ids):
        raise ValueError(
            f"sample {sample.key}: prefill and rounds emitted {emitted} of {len(sample.ids)} ids"
        )
    cut = [i for i, one in enumerate(sample.rounds) if is_cut(one)]
    if cut and cut != [len(sample.rounds) - 1]:
        raise ValueError(f"sample {sample.key}: only the last round may be cut, got rounds {cut}")
    if sample.kv_entries is not None:
        _check_entries(sample, sample.kv_entries)
    _check_histogram(sample)


def _check_entries(sample: Sample, entries: int) -> None:
    """A pass leaves one entry at least, and no more than it has read tokens: as many as its round emits."""
    full = [one.emitted for one in sample.rounds if not is_cut(one)]
    if not len(full) <= entries <= sum(full):
        raise ValueError(
            f"sample {sample.key}: {entries} cache entries for {len(sample.rounds)} rounds, "
            f"{len(full)} of them whole, which have read {sum(full)} tokens"
        )


def _check_histogram(sample: Sample) -> None:
    histogram = accepted_counts(sample.rounds)
    rounds, accepted = len(sample.rounds), sum(one.accepted for one in sample.rounds)
    if sum(histogram) != rounds:
        raise ValueError(f"sample {sample.key}: histogram holds {sum(histogram)} of {rounds} rounds")
    if (total := sum(i * count for i, count in enumerate(histogram))) != accepted:
        raise ValueError(f"sample {sample.key}: histogram holds {total} of {accepted} accepted tokens")
