"""Mask tokens (arXiv 2603.17942): drafts a tree by probing the model with placeholders for future tokens.

Nothing is trained. draft.py holds all of it; from `methods.hidden_transfer.pseudo_rows` it takes what rows of
placeholders see. Nothing here is imported by other methods.
"""
