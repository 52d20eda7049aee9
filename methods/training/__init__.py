"""What the modules of several methods share in training; no code that decodes.

distillation.py is the loss of a drafter against its target, frozen_layers.py runs the target's layers with
gradients, trained_layer.py is a layer whose weights are trained. Imported by the `module` files of the
methods.
"""
