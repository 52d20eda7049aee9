"""``python -m bench.train.skip_set``: the sub-layers of a model that a draft can skip.

Start reading at `cli`; `rating` scores a set of sub-layers, and the search itself is
`methods.skipping.search`. Nothing outside this folder needs to import from it.
"""
