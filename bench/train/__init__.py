"""Training, for the methods that need it: modules, whole models, draft trees, sets of sub-layers to skip.

Start reading at `cli`, the command ``python -m bench.train``. `trainers` is the loop that trains a method's
module or model (what is trained, and its loss, belongs to the method), `base` rebuilds the embedded model,
`corpus` generates its dialogues, `data` has all dialogues to train on, `memory` estimates what a training
needs. `calibrate`, `skip_set` and `curves` are commands of their own. The benchmark itself imports nothing
from here.
"""
