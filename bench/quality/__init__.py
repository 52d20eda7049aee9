"""``python -m bench.quality RUN_FOLDER``: were the answers of a run well-formed and right? From records
alone.

Everything is in `scores`; nothing imports this package.
"""
