"""Training of a method's modules, or of a whole model, by the loop that all methods share.

Start reading at `loop`, then `modules` (the model is frozen) and `joint` (the whole model is trained); what
is trained, and its loss, belongs to the method (``methods/*/module.py``). `recipe` holds the settings,
`course` the log of figures, `checkpoint` the saved state. All of `bench.train` may import from here.
"""
