"""One measuring session: every arm decodes every prompt, timed and judged, and each sample goes to disk.

Import `execute` from `runner`, a clock from `meters`, timed passes from `probes`, the facts of a machine from
`environment`, judgements of output from `verdicts`. Start with `runner`.
"""
