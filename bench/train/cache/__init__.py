"""What the frozen model says of the training data, kept on disk: ``python -m bench.train ... cache=FOLDER``.

Modules train for several epochs, and several modules on the same data; the model's own rows and next tokens
are the same each time. Start reading at `rows`, the cache; `store` holds its arrays on disk. The command
`bench.train.cli` imports from here.
"""
