"""Medusa (arXiv 2401.10774): extra heads on the last hidden row propose a tree of continuations.

Start with draft.py, the method. module.py is what is trained, and its loss; decoding does not import it. The
authors' trees are in `methods.core.tree_choice`.
"""
