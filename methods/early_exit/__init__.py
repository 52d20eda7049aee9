"""Drafting with the first layers of the target itself; nothing is trained here.

`layerskip` is LayerSkip, with a fixed exit (``method=layerskip``). `dynamic_exit` is DEL, which chooses the
exit anew every round (``method=del``), by the arithmetic in `exit_choice`. Start with `prefix`: how the first
layers draft and the others verify. `prefix` is also imported by `methods.kangaroo` and `methods.m2r2`.
"""
