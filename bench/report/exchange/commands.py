"""Commands of ``python -m bench.report``: ``export``, ``import``, ``pack`` and ``table``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cli import OK, print_any_text, say
from bench.errors import UserError
from bench.records.files import write_text

_LAYOUTS, _FORMS = ("vllm", "sglang", "aiperf"), ("markdown", "latex", "csv")


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("export", help="what every answer accepted, as a serving engine reports it")
    command.add_argument("run", type=Path, help="folder of the run; RUN:METHOD of a run of several")
    command.add_argument(
        "--format", choices=_LAYOUTS, default="vllm", help="layout to write (default: %(default)s)"
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="default: acceptance-LAYOUT.jsonl")
    command.set_defaults(command=_export)


def _add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "import", help="show results of vLLM's benchmark, AIPerf or Spec-Bench as measured elsewhere"
    )
    command.add_argument("file", type=Path, help="result file, or folder of AIPerf's")
    command.add_argument("--name", help="what to call it (default: name of the file)")
    command.add_argument(
        "--into",
        type=Path,
        metavar="RESULTS",
        help="keep it, so that the board of this results folder has it",
    )
    command.set_defaults(command=_import)


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("pack", help="compress finished runs; every command reads them")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    command.set_defaults(command=_pack)


def _add_table(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("table", help="a table of a run or board as LaTeX, CSV or Markdown")
    command.add_argument("place", type=Path, help="folder of a run, RUN:METHOD, or a results folder")
    command.add_argument(
        "--format", choices=_FORMS, default="markdown", help="what to write (default: %(default)s)"
    )
    command.add_argument(
        "--table",
        default="ranking",
        metavar="NAME",
        help="which one (default: %(default)s); a wrong name lists all",
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write it here instead of printing it")
    command.set_defaults(command=_table)


COMMANDS = {"export": _add_export, "import": _add_import, "pack": _add_pack, "table": _add_table}
"""What adds the parser of each sub-command."""


def _export(options: argparse.Namespace) -> int:
    from bench.report.exchange.export import write_export
    from bench.report.stored_runs import read_run

    path = options.out or Path(f"acceptance-{options.format}.jsonl")
    _say(write_export(read_run(options.run), options.format, path))
    return OK


def _import(options: argparse.Namespace) -> int:
    from bench.report.exchange.results import read_results
    from bench.report.exchange.rows import elsewhere_text, keep

    rows = read_results(options.file, options.name)
    _say(elsewhere_text(rows))
    if options.into is not None:
        _say("\n".join(str(keep(row, options.file, options.into)) for row in rows))
    return OK


def _pack(options: argparse.Namespace) -> int:
    from bench.records.packing import pack

    for folder in options.runs:
        try:
            _say(str(pack(folder)))
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"{folder} cannot be packed: {reason}", "free space, or mend permissions"
            ) from error
    return OK


def _table(options: argparse.Namespace) -> int:
    from bench.report.exchange.choice import named_tables
    from bench.report.exchange.typeset import typeset

    text = typeset(named_tables(options.place, options.table), options.format)
    if options.out is None:
        _say(text)
        return OK
    try:
        write_text(options.out, text + "\n")
    except OSError as error:
        raise UserError(
            f"{options.out} cannot be written: {error}", "choose another file with --out"
        ) from error
    _say(str(options.out))
    return OK


def _say(text: str) -> None:
    print_any_text()
    say(text)
