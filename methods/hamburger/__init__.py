"""HAMburger (arXiv 2505.20438), which emits several tokens per pass, and a verified variant of ours.

Start with draft.py, the method; decoder.py holds the small frozen parts it runs, history.py what it keeps in
the cache, checkpoint.py how a tuned model is stored. verified.py drafts with the same parts on the frozen
target. Training: module.py (the modules and their loss), groups.py (answers cut into groups), trainer.py and
verified_trainer.py. Decoding imports none of these four.
"""
