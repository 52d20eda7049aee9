"""The memory that a training will need, before any weight is loaded.

`estimate` adds up weights, cache, optimiser state and one training pass; `peak` measures the pass by running
it on tensors without storage. Start reading at `estimate`; `bench.train.cli` imports from there.
"""
