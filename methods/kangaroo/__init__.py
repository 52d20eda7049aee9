"""Kangaroo: the first layers of the target and a trained adapter draft, the other layers verify.

`draft` decodes a chain (``method=kangaroo``), `tree` a tree (``method=kangaroo_tree``), `module` holds the
adapter as it is trained. To follow a round, read the first page of `methods.core.chain`, then
`methods.early_exit.prefix`, then `draft`. Decoding never imports `module`; `bench.convert` does.
"""
