"""What files alone tell of a run, a model and a tokenizer, read within a second and without torch.

A plan, and the table of a run that is complete, need a run's id, the sizes of its model and the names of its
samples, and nothing that computes. Importing torch and transformers takes several seconds, so nothing in this
folder imports them. What a file does not say plainly ends in `Unclear`; the caller then loads the libraries
and says so (`bench.show.waiting`). Start with ``run.py``; ``model.py`` and ``tokenizer.py`` read a
checkpoint, ``gguf_file.py`` the header of its weights where they are one GGUF file.
"""


class Unclear(Exception):
    """The files do not say plainly what is asked: the libraries that know must be loaded."""
