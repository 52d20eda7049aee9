"""Hidden transfer (arXiv 2404.12022): drafts a tree from pseudo hidden states of future tokens.

Start with draft.py, the method; pseudo_rows.py says where pseudo rows enter the model and what they see.
module.py is what is trained, and its loss; decoding does not import it.
"""
