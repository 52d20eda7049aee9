"""Four ways to run the same pass, chosen by ``runtime.tier`` (`bench.runtime.loading.choose_tier`).

- ``eager``: textbook PyTorch with nothing fused, the slow baseline (``eager.py``).
- ``static``: fused PyTorch operations over a preallocated cache. This is
  `bench.runtime.decoder.Decoder` itself.
- ``compiled``: one C call per pass, for fp32 on a CPU (``compiled/``).
- ``graph``: replayed CUDA graphs (``graph/``).

Each tier is a subclass of `Decoder` and computes the same results, up to rounding; methods never notice which
one runs. Start with ``eager.py``, which spells out the arithmetic.
"""
