"""What is kept of a run, and nothing that measures: plain data, its JSON, and its files on disk.

Import the dataclasses from `model`, reading and writing from `store`, tables for notebooks from `frames`,
safe file writes from `files`. Nothing here knows of torch or of methods. Start with `model`, then `store`.
"""
