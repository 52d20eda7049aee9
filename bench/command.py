"""``ssbench NAME ...``: a short name for every command, ``ssbench run ...`` for ``python -m bench ...``."""

import runpy
import sys

COMMANDS = {
    "run": ("bench", "measure methods beside plain decoding"),
    "report": ("bench.report", "tables, figures and comparisons of what was measured"),
    "prove": ("bench.prove", "is the output of a method the model's own?"),
    "tune": ("bench.tune", "the fastest settings of a method on this machine"),
    "train": ("bench.train", "train a method's modules"),
    "profile": ("bench.profile", "what passes cost on this machine"),
    "routing": ("bench.routing", "how early the experts of later layers can be told"),
    "project": ("bench.project", "a run's rounds on another device"),
    "reference": ("bench.reference", "is the baseline honest? beside transformers.generate"),
    "quality": ("bench.quality", "well-formed and right answers of a run"),
    "fetch": ("bench.fetch", "fetch a published model ahead of a run"),
    "convert": ("bench.convert", "published modules or pickled weights to our files"),
    "answers": ("bench.train.answers", "a model's own answers, to train on"),
    "calibrate": ("bench.train.calibrate", "the fastest draft tree on this machine"),
    "exits": ("bench.train.exits", "tune a model for early exits, as LayerSkip and DEL need them"),
    "skip_set": ("bench.train.skip_set", "the sub-layers that draft_verify skips"),
    "frequent_tokens": ("bench.train.frequent_tokens", "a model's tokens by frequency"),
    "mixture": ("bench.train.mixture", "train a small mixture of experts from nothing"),
    "curves": ("bench.train.curves", "loss and accuracies of a training as figures"),
    "corpus": ("bench.train.corpus", "examples of the embedded corpus"),
}
"""Names, the modules they stand for, and what these do."""


def main() -> None:
    """Entry point of ``ssbench``; the exit status is the command's."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = (f"  {known:16} {text}" for known, (_, text) in COMMANDS.items())
        sys.stdout.write("usage: ssbench NAME [KEY=VALUE ...]\n\n" + "\n".join(lines) + "\n\n")
        sys.stdout.write("ssbench NAME --help explains a command's keys.\n")
        return
    if name not in COMMANDS:
        sys.stderr.write(f"error: unknown command {name!r}\nfix: choose one of {', '.join(COMMANDS)}\n")
        raise SystemExit(2)
    module = COMMANDS[name][0]
    sys.argv[:2] = [f"ssbench {name}"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
