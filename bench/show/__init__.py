"""Results as text for a terminal or a Markdown file.

`layout` holds the one plain-text table, the one Markdown table, and how numbers, intervals and bytes are
written; every command imports it. `table` is the table that a run ends with: start reading at `run_table`.
`alarms` holds what stands above the numbers, `result` makes all of a run's text, for its end and for
``bench.report show``, and `sweep` is the table that ends a sweep. Nothing here computes a figure.
"""
