"""M2R2 (arXiv 2502.02040): drafts from a second, accelerated stream of rows.

Start with draft.py, the method; accelerated.py holds the frozen low-rank changes and the gate it runs,
dynamic.py the lossy early exit. module.py is what is trained, and its loss; decoding does not import it.
"""
