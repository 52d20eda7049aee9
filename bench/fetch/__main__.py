"""``python -m bench.fetch smollm2``: fetch a published model into the cache, ahead of a run that needs it."""

import argparse
import sys

from bench.errors import UserError
from bench.runtime.package_index import MODELS, fetch_model
from bench.show.spelling import as_arguments

PATIENCE_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Fetch what is not in the cache and print where it is; 0 if it is there, 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m bench.fetch", description=(__doc__ or "").strip())
    parser.add_argument("model", choices=sorted(MODELS), help="as in model=NAME")
    try:
        given = as_arguments(parser, sys.argv[1:] if arguments is None else arguments)
        path = fetch_model(parser.parse_args(given).model, PATIENCE_S)
    except UserError as mistake:
        sys.stderr.write(f"error: {mistake.what}\nfix: {mistake.fix}\n")
        return 2
    print(path)  # noqa: T201 - the command's result
    return 0


if __name__ == "__main__":
    sys.exit(main())
