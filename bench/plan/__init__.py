"""What a run will take before it starts: what must be fetched or trained first, memory and time.

Import `plan` from `planning` for the printed plan, `estimate` from `outlook` for its numbers, `Size` from
`size` for the memory in them, the table of GPUs from `devices`. Start with `planning`.
"""
