"""Dialogues to train on, and held-out prompts to fit settings on.

`embedded` (the generated corpus) and `conversations` (real ones, such as ShareGPT) are the two classes that a
yaml in ``conf/data`` can name; both have a `stream` of token ids and answer masks, which is a good place to
start. `tokenizer` is that of the embedded model, `batching` groups dialogues by length, and `heldout` gives
prompts that no training has seen.
"""
