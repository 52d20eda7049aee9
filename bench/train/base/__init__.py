"""``python -m bench.train base=tiny``: the embedded model, trained from nothing.

Start reading at `build`, which runs the worker processes, then `loop`, the steps of one worker. `recipe`
holds the settings, `model` the network, `optim` Muon and AdamW, `layerskip` the early-exit recipe, `data` the
batches and `evaluation` the periodic check. Nothing but `bench.train.cli` needs to import from here.
"""
