"""The tier ``graph``: CUDA graphs, each recorded once and replayed for every pass of its size.

``decoder.py`` holds `GraphDecoder`, the place to start. ``buckets.py`` names the recording of a pass, whose
size ``sizes.py`` rounds up; ``spans.py`` chooses the ranges of layers that are recorded whole, ``stepper.py``
drafts a token by one recording, ``recorder.py`` records, and ``slot_cache.py`` is the cache that a recorded
pass can write to. ``lengths.py`` is a second way for chains to attend, without a mask, and
``length_check.py`` compares it with the mask on the GPU at hand.
Other code needs only `GraphDecoder`, `SlotCache` and `CudaRecorder`.

Batches of several sequences are not supported. Most of what they need is known: t(M), the measured cost of a
pass of M rows, since B sequences that verify K + 1 rows each are a pass of B (K + 1) rows, as far as weights
are concerned. Attention would have to change: `Rows.base` becomes one base per sequence, the cache gets a
sequence axis before its slots, masks cover each row's own sequence only, and a bucket is named by B as well.
Rounds stay ragged: a sequence that accepts less commits less, which one length per sequence already
expresses.
"""
