"""A CUDA device for machines without one, so that tests see what a method asks of a GPU.

``tensors.py`` has tensors that say they are on CUDA and keep their numbers on the CPU. ``device.py`` has
`PretendedCuda`, the place to start: inside ``with PretendedCuda() as device`` every operation passes through
it, is refused where CUDA would refuse it, and is counted. ``recorder.py`` records and replays as CUDA graphs
do. ``flash.py`` is its Flash kernel, as documented, and some wrong ones. Only tests import from here.
"""
