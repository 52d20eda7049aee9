"""What a stored run would gain on another device: its rounds, replayed on that device's cost of a pass.

replay.py holds the cost model and the replay, start there; `__main__.py` is the command. Import `Loop`,
`Passes` and `projected` from replay.py.
"""
