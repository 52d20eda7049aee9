"""Every figure of a run, as pure functions of its records: no clock, no model, no file, no printing.

Import whatever you need from here; nothing here imports more than `bench.records.model` and `bench.errors`.
Start reading at `summary.summarise`, which goes from samples to all figures of a run; `run_figures` says what
those are, `counts`, `intervals`, `roofline`, `lossy` and `resources` hold the estimators. For an arena of
many arms start at `paired` (how much faster, and ranks) and `controls` (whether the run can be believed).
"""
