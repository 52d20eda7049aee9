"""The tier ``compiled``: passes and products in C, built for the processor at hand.

``decoder.py`` holds `CompiledDecoder`, the place to start; ``library.py`` builds and loads the C files of
this folder; ``structures.py`` mirrors the C structures of ``native.h``. `bench.runtime.linear` uses the
library too, for single products. Other code needs only `CompiledDecoder` and `library`.
"""
