"""The decoding methods, a folder per family; ``conf/method`` has a yaml for each.

Start with `methods.core.base` (what a method is) and `methods.core.chain` (a round in numbers). A method may
import `methods.core`, `bench.runtime`, `bench.records.model` and `bench.errors`. A method of your own goes
into a file here, such as ``methods/mine.py``, or into a package of your own that its yaml names in
``_target_``.
"""
