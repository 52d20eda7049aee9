"""``python -m bench.reference``: is the baseline honest? Our plain decoding beside ``transformers.generate``.

Everything is in `comparison`; nothing imports this package.
"""
