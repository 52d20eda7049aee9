"""Mixtures of experts that do not fit into fast memory: experts lie in slow memory and are loaded in time.

Start reading at `placement`, which gives a decoder such experts. `slow_memory` is a file with a limited rate,
`pinned_memory` that of a GPU's host, `fast_store` holds N experts and the thread that loads them, and
`prediction` guesses which ones come next.
What is decoded never changes: the model's own router decides, and a guess only loads an expert earlier.
"""
