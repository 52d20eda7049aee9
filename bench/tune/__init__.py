"""``python -m bench.tune``: finds each method's fastest settings for a model on this machine.

Every choice is measured as a small run of several methods (`bench.metrics.arena`) whose arms are one method
with other settings, on questions that are not those of the benchmark. Start reading at `cli`; `descent`
decides what is tried next. Nothing is imported from here; what was found is read by `bench.compose.tuned`.
"""
