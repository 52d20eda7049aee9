"""The tier ``graph``: CUDA graphs, each recorded once and replayed for every pass of its size.

``decoder.py`` holds `GraphDecoder`, the place to start. ``buckets.py`` rounds a pass up to a recorded size,
``recorder.py`` records, and ``slot_cache.py`` is the cache that a recorded pass can write to. Other code
needs only `GraphDecoder`, `SlotCache` and `CudaRecorder`.
"""
