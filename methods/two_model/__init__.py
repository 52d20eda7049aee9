"""Speculative decoding with a second, smaller model: the reference for self-speculation.

Start with `draft`, the method (``method=two_model``). `module` is the training of a small draft model, for
targets that have none with the same tokenizer; decoding never imports it.
"""
