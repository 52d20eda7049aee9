"""Four ways to run the same pass, chosen by ``runtime.tier`` (`bench.runtime.tier_choice.choose_tier`).

- ``eager``: textbook PyTorch with nothing fused, the slow baseline (``eager.py``).
- ``static``: fused PyTorch operations over a preallocated cache; `bench.runtime.decoder.Decoder` itself.
- ``compiled``: one C call per pass, for fp32 on a CPU (``compiled/``).
- ``graph``: replayed CUDA graphs (``graph/``).

The others are subclasses of `Decoder` and compute the same results, up to rounding; methods never notice
which tier runs. Other code imports only the decoders and `library`. Start with ``eager.py``, which spells out
the arithmetic.
"""
