"""Numbers of a run, computed from its records alone: pure functions, no files, no torch, no models.

Each estimator is documented where it is computed. `counts` and `intervals` hold the basic estimators,
`summary` puts together the figures that a table shows (`run_figures`), and `lossy` the quality of output that
is not the model's own. For runs of several methods: `latin_square` (the order of the arms), `paired` (who is
faster than whom), `controls` (whether to believe it), put together by `arena`.
"""
