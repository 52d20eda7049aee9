"""Is the output of a method the model's own? ``python -m bench.prove`` makes certificates of it.

A proof runs in stages, from exact to statistical: the acceptance rules enumerated (`rules`), premises watched
in every round of real decodes (`premises`), greedy output token for token (`greedy`), sampled output against
an enumerated distribution (`sampling`). Methods that are broken on purpose (`controls`) must be caught, or
the proof counts for nothing. Start reading at `prover`. From outside, import `certificates` (what tables may
say) and `source` (the hash of what decodes); neither needs torch.
"""
