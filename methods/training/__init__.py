"""What the modules of several methods share in training; nothing here decodes.

rows.py is what a loss reads, distillation.py is the loss of a drafter against its target, frozen_layers.py
runs the target's layers with gradients, trained_layer.py is a layer whose weights are trained. The `module`
files of the methods import them, and hidden transfer's calibration imports frozen_layers.py.
"""
