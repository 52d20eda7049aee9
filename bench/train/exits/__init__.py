"""``python -m bench.train.exits``: the first layers of a model learn to be left early, for LayerSkip and DEL.

Start reading at `trainer`; `cli` is the command. What it writes is merged into the model by
``python -m bench.convert kind=merged``. Only the command imports from here.
"""
