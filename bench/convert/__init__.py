"""``python -m bench.convert``: published weights, converted to folders that this benchmark reads.

Start reading at `cli`. `published` finds and reads a file; `medusa`, `kangaroo` and `hamburger` (with
`gpt_fast`) check the tensors of one method's module against the target and rename them; `checkpoint` converts
a whole model. Nothing outside this folder needs to import from it.
"""
