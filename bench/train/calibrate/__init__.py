"""``python -m bench.train.calibrate``: the draft tree of a method that is fastest on this machine.

Start reading at `cli`. `measure` measures how often candidates are right and how long rounds take,
`tree_search` chooses a tree from these numbers. Nothing outside this folder needs to import from it.
"""
