"""The transformer that every method decodes with: model files, layers, cache, sampling and tiers.

``decoder.py`` is the place to start: `Decoder` runs rows of one sequence through any range of layers.
``rows.py`` says where those rows stand and ``cache.py`` keeps their keys and values; ``sampling.py`` turns
rows into tokens. ``loading.py`` makes a decoder from a checkpoint (``checkpoint_files.py`` finds the files,
``model_config.py`` reads the shape), ``tiers/`` holds the faster and slower ways to run the same passes.
Methods and the harness may import any public name from here. Nothing here imports ``methods`` or the rest of
``bench`` except ``bench.errors``.
"""
