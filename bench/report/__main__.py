"""`python -m bench.report`: the table of all runs, rebuilt from their records."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli import report_mistake
from bench.errors import UserError
from bench.report.listing import markdown, summaries


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"), help="results folder")
    try:
        print(markdown(summaries(parser.parse_args(arguments).results)))  # noqa: T201 - the command's result
    except UserError as mistake:
        return report_mistake(mistake)
    return 0


if __name__ == "__main__":
    sys.exit(main())
