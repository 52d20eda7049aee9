"""Look at the corpus: `python -m bench.train.corpus --show 2` prints that many dialogues of each subtask."""

import argparse
import sys
from collections.abc import Sequence

from bench.cli import report_mistake
from bench.errors import UserError
from bench.show.spelling import as_arguments
from bench.train.corpus import heldout_dialogues


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a few held-out dialogues of every subtask."""
    parser = argparse.ArgumentParser(prog="python -m bench.train.corpus", description=main.__doc__)
    parser.add_argument("--show", type=int, default=2, help="dialogues per subtask")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice")
    try:
        options = parser.parse_args(as_arguments(parser, sys.argv[1:] if arguments is None else arguments))
    except UserError as mistake:
        raise SystemExit(report_mistake(mistake)) from mistake
    for dialogue in heldout_dialogues(options.seed, options.show):
        sys.stdout.write(f"== {dialogue.subtask}\n")
        for turn, answer in zip(dialogue.turns, dialogue.answers, strict=True):
            sys.stdout.write(f"user: {turn}\nassistant: {answer}\n")
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
