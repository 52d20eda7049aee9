"""Every figure of a run, as pure functions of its records: no clock, no model, no file, no printing.

Import whatever you need from here; nothing here imports more than `bench.records` and `bench.errors`. Start
reading at `summary.summarise`, which goes from samples to all figures of a run; `run_figures` says what those
are and how they are written, `counts`, `speedups`, `intervals`, `roofline` and `lossy` hold the estimators.
For a run of several methods start at `arena`, which puts together `paired` (all arms compared, and ranks) and
`controls` (whether the run can be believed).
"""
