"""Results as text for a terminal or a Markdown file.

`layout` holds the one plain-text table, the one Markdown table, and how numbers, intervals and bytes are
written; every command imports it. `table` is the table that a run ends with: start reading at `run_table`.
Nothing here computes a figure.
"""
