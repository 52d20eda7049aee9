"""``python -m bench.profile model=tiny``: what decoding costs on this machine, and what methods could gain.

Start reading at `cli`; `measure` times passes, layers and rounds, `records` is the stored profile, `card` its
text. `bench.report` imports `records` and `card`; the figures are drawn by `bench.report.profiles`.
"""
