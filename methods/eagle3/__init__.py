"""EAGLE-3: a drafter of one layer that reads the target's rows at three depths.

draft.py is the method, start there; layer.py is the drafter's layer as it decodes; module.py trains it.
`python -m bench.convert kind=eagle3` reads published drafters. Import `Eagle3` from draft.py.
"""
