"""`python -m bench.report`: the leaderboard and other readings, rebuilt from records alone.

Exit status: 0 done; 1 with --strict if the records hold failures, with --check if files are out of date; 2 a
mistake of the user, reported in two lines.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.cli import FAILED, INTERRUPTED, OK, leave_closed_pipe, print_any_text, report_mistake, say
from bench.errors import UserError
from bench.report.exchange.commands import COMMANDS as EXCHANGE
from bench.show.spelling import as_arguments
from bench.show.waiting import announce


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in (*COMMANDS, "-h", "--help"):
        given.insert(0, "leaderboard")  # the main command needs no name
    try:
        options = _parser(given[0]).parse_args(_spelled(given))
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except UserError as mistake:
        return report_mistake(mistake)
    except BrokenPipeError:
        return leave_closed_pipe()
    except KeyboardInterrupt:
        return INTERRUPTED


def _spelled(given: Sequence[str]) -> list[str]:
    """The command line with every ``key=value`` as the sub-command's parser spells it."""
    if given[0] not in COMMANDS or not any("=" in text for text in given):
        return list(given)
    (choices,) = (action.choices for action in _parser(given[0])._actions if isinstance(action.choices, dict))
    return [given[0], *as_arguments(choices[given[0]], given[1:], {"results_dir": "results"})]


def _parser(name: str = "") -> argparse.ArgumentParser:
    """Parser of one sub-command; of all of them, which ``--help`` lists, if `name` is none."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description=(__doc__ or "").splitlines()[0],
        epilog="Without a command: leaderboard. COMMAND --help lists its options.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in [COMMANDS[name]] if name in COMMANDS else COMMANDS.values():
        add(commands)
    return parser


def _add_leaderboard(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "leaderboard", help="write leaderboard.md, .html, .csv and figures/ (the default)"
    )
    command.add_argument("results", nargs="?", type=Path, default=Path("results"), help="results folder")
    command.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit 1 if a file is missing, left over, or differs from what the records say "
        "(drawings are not compared: versions of matplotlib differ in them)",
    )
    command.add_argument("--strict", action="store_true", help="exit 1 if the records hold failed samples")
    command.set_defaults(command=_leaderboard)


def _add_excerpt(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("excerpt", help="the leaderboard in short, for a README")
    command.add_argument("results", nargs="?", type=Path, default=Path("results"), help="results folder")
    command.add_argument("--into", type=Path, metavar="FILE", help="replace the excerpt that this file holds")
    command.set_defaults(command=_excerpt)


def _add_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("show", help="the table of a stored run, as it was printed at its end")
    command.add_argument("run", type=Path, help="folder or id of the run")
    command.set_defaults(command=_show)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "compare", help="the speed of run B over that of run A on their common questions, with an interval"
    )
    command.add_argument("run_a", type=Path, help="folder of run A, the one compared with")
    command.add_argument("run_b", type=Path, help="folder of run B, whose speed over A's is printed")
    command.set_defaults(command=_compare)


def _add_timeline(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("timeline", help="one answer as HTML: which tokens came from which round")
    command.add_argument("run", type=Path, help="folder of the run")
    command.add_argument("prompt_id", nargs="?", help="id of the question; without it, lists them")
    command.add_argument("--turn", type=int, default=1, help="turn of the conversation, from 1")
    command.add_argument("--ids", action="store_true", help="show token ids; needs no tokenizer")
    command.add_argument("--output", type=Path, help="file to write (default: in the run's folder)")
    command.set_defaults(command=_timeline)


def _add_input_length(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("input-length", help="speedup and acceptance by length of the prompt")
    command.add_argument("run", type=Path, help="folder of the run, or RUN:METHOD")
    command.add_argument(
        "--edges",
        metavar="N,N,...",
        help="where ranges of prompt tokens begin (default: powers of two, small ranges joined)",
    )
    command.add_argument("--figure", type=Path, metavar="FILE", help="draw it, as .png or .svg")
    command.set_defaults(command=_input_length)


def _add_model_sizes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("model-sizes", help="how methods grow with the model, over runs of several")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, one a model")
    command.add_argument("--figure", type=Path, metavar="FILE", help="draw it, as .png or .svg")
    command.set_defaults(command=_model_sizes)


def _add_spec_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("export-spec-bench", help="a run as answer files of Spec-Bench's harness")
    command.add_argument("run", type=Path, help="folder of the run")
    command.add_argument(
        "--output", type=Path, default=Path("spec_bench_answers"), help="folder to write into"
    )
    command.set_defaults(command=_export)


def _add_spec_import(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "import-spec-bench", help="score answer files of Spec-Bench, Kangaroo or SWIFT"
    )
    command.add_argument("file", type=Path, help="answers of the method")
    command.add_argument(
        "baseline", nargs="?", type=Path, help="answers of plain decoding; without it no speedups"
    )
    command.add_argument(
        "--tokenizer", help="model whose tokenizer counts the baseline's text, as their script does"
    )
    command.add_argument(
        "--prefill",
        choices=("listed", "unlisted"),
        help="whether the prefill is a step of the method's accept_lengths (default: unlisted if a list "
        "begins with more than one token)",
    )
    command.set_defaults(command=_import)


COMMANDS = {
    "leaderboard": _add_leaderboard,
    "excerpt": _add_excerpt,
    "show": _add_show,
    "compare": _add_compare,
    "timeline": _add_timeline,
    "input-length": _add_input_length,
    "model-sizes": _add_model_sizes,
    "export-spec-bench": _add_spec_export,
    "import-spec-bench": _add_spec_import,
    **EXCHANGE,
}
"""What adds the parser of each sub-command, in the order of ``--help``."""


def _leaderboard(options: argparse.Namespace) -> int:
    announce(f"reading the runs in {options.results}; tables and figures come next")
    from bench.report.build import build, differences, write

    board = build(options.results, is_drawn=not options.check)
    status = FAILED if board.unreadable or (options.strict and board.failures) else OK
    for mistake in board.unreadable:
        report_mistake(UserError(f"left out: {mistake.what}", mistake.fix))
    if options.strict and board.failures:
        sys.stderr.write(f"{board.failures} samples failed; the leaderboard lists them\n")
    if not options.check:
        _say("\n".join(str(path) for path in write(board, options.results)))
        return status
    if old := differences(board, options.results):
        what = f"{', '.join(old)} under {options.results} do not follow from the records"
        report_mistake(UserError(what, f"rebuild them: python -m bench.report {options.results}"))
        return FAILED
    _say("the leaderboard follows from the records: texts compared, figures there but not compared")
    return status


def _excerpt(options: argparse.Namespace) -> int:
    announce(f"reading the runs in {options.results}")
    from bench.report.excerpt import excerpt, replace_block

    block = excerpt(options.results)
    if options.into is None:
        _say(block)
        return OK
    try:
        text = options.into.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{options.into} cannot be read: {error}", "name the file to change") from error
    _write_text(options.into, replace_block(text, block))
    _say(str(options.into))
    return OK


def _compare(options: argparse.Namespace) -> int:
    announce(f"reading {options.run_a} and {options.run_b}")
    from bench.report.agreement import compared

    _say(compared(options.run_a, options.run_b))
    return OK


def _show(options: argparse.Namespace) -> int:
    from bench.report.stored_runs import folder_and_method, load_whole, part_of
    from bench.show.result import result_of

    folder, label = folder_and_method(options.run)
    run, samples = part_of(*load_whole(folder), label)
    _say(f"{result_of(run, samples, folder.parent.parent).table}\n{folder}")
    return OK


def _timeline(options: argparse.Namespace) -> int:
    announce(f"reading {options.run}")
    from bench.report.stored_runs import folder_and_method, read_run
    from bench.report.timeline import listing, timeline_file, timeline_of

    stored, folder = read_run(options.run), folder_and_method(options.run)[0]
    if options.prompt_id is None:
        _say(listing(stored, str(options.run)))
        return OK
    page = timeline_of(stored, options.prompt_id, options.turn - 1, has_ids=options.ids)
    path = options.output or folder / timeline_file(stored.label, options.prompt_id, options.turn)
    _write_text(path, page)
    _say(str(path))
    return OK


def _input_length(options: argparse.Namespace) -> int:
    from bench.report.input_length import edges_from, show_lengths

    _say(show_lengths(options.run, edges_from(options.edges), options.figure))
    return OK


def _model_sizes(options: argparse.Namespace) -> int:
    from bench.report.model_sizes import show_sizes

    _say(show_sizes(options.runs, options.figure))
    return OK


def _export(options: argparse.Namespace) -> int:
    from bench.report.answers import write_answers
    from bench.report.stored_runs import read_run

    _say("\n".join(str(path) for path in write_answers(read_run(options.run), options.output)))
    return OK


def _import(options: argparse.Namespace) -> int:
    from bench.report.answers import read_answers
    from bench.report.rescore import load_counter, scores, scores_text, warnings

    method = read_answers(options.file)
    baseline = read_answers(options.baseline) if options.baseline else []
    count = load_counter(options.tokenizer) if options.tokenizer else None
    is_listed = None if options.prefill is None else options.prefill == "listed"
    rows = scores(method, baseline, count, is_prefill_listed=is_listed)
    _say(scores_text(rows, warnings(method, baseline)))
    return OK


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}", "choose another file with --output") from error


def _say(text: str) -> None:
    print_any_text()
    say(text)


if __name__ == "__main__":
    sys.exit(main())
