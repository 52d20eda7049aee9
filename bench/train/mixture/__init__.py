"""``python -m bench.train.mixture``: the embedded mixture of experts, trained from nothing.

Start reading at `loop`; `text` holds the dialogues it learns from. Only the command imports from here.
"""
