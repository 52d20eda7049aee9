"""What every harmed process needs and its parent does not; known before the fork, no start waits for it."""

from contextlib import ExitStack

import transformers.models.llama.modeling_llama  # noqa: F401 - the probe's; two seconds in every start

import methods.early_exit.layerskip  # noqa: F401 - as above
from bench.prove.source import source_hash
from tests.harness import composed_tree, mode_of_experiments_alone, remembered_yaml

SOURCE = source_hash("methods.early_exit.layerskip.LayerSkip", "static")
"""Reading all imports would cost a third of a run."""

COMPOSING = ExitStack()
"""Never closed: every process forked from here composes its command once, from files that are parsed."""
COMPOSING.enter_context(remembered_yaml())
COMPOSING.enter_context(mode_of_experiments_alone())
composed_tree("model=tiny", "method=layerskip")
