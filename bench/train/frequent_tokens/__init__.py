"""``python -m bench.train.frequent_tokens``: a model's tokens by frequency, for ``method.draft_vocab``.

Start reading at `cli`, the command; `counting` counts and orders the tokens. `bench.runtime.sampling` reads
the file. Nothing outside this folder needs to import from it.
"""
