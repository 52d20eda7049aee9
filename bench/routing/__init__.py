"""``python -m bench.routing model=tiny_moe``: how early the experts of later layers can be told.

Start reading at `measure`, which decodes and guesses; `records` is what is stored and its table, `cli` the
command. `bench.report.routing` puts stored records on the board.
"""
