"""What every harmed process needs and its parent does not; known before the fork, no start waits for it."""

import transformers.models.llama.modeling_llama  # noqa: F401 - the probe's; two seconds in every start

import methods.early_exit.layerskip  # noqa: F401 - as above
from bench.prove.source import source_hash
from tests.harness import composed_tree, hydra_repeats_nothing

SOURCE = source_hash("methods.early_exit.layerskip.LayerSkip", "static")
"""Reading all imports would cost a third of a run."""

COMPOSING = hydra_repeats_nothing()
"""Never left: every process forked from here composes its command once, from files that are parsed."""
COMPOSING.__enter__()
composed_tree("model=tiny", "method=layerskip")
