"""The subcommands of ``mtfscalper study``."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# A command imports what it needs when it runs: with freqtrade and torch, --help would take seconds.


class Subcommand(NamedTuple):
    """A subcommand of ``mtfscalper study``.

    :ivar name: what the user types
    :ivar summary: one line for ``--help``
    :ivar add_arguments: declares its options
    :ivar run: does the work and returns the exit status
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_subcommands(parser: argparse.ArgumentParser) -> None:
    """Declare all of them."""
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for command in SUBCOMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary, description=command.summary)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: a whole number of at least 1")
    return int(text)


def add_study(parser: argparse.ArgumentParser) -> None:
    """Declare which study is meant, and where its trials are kept."""
    parser.add_argument("--study", required=True, metavar="NAME", help="its name, a folder in user_data/studies")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="a database that several machines share, such as postgresql://USER@HOST/DATABASE (default: a journal in "
        "the study's folder). With a password it is better put into the environment: MTFSCALPER_STORAGE",
    )


def storage_of(args: argparse.Namespace) -> str | None:
    """The storage that is asked for."""
    from mtfscalper.search.storage import STORAGE_VARIABLE

    return args.storage or os.environ.get(STORAGE_VARIABLE) or None


# ---------------------------------------------------------------------- study run


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument(
        "--trials", type=count, default=100, metavar="N", help="until N have finished in all (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=count, default=1, metavar="N", help="trials at a time on this machine (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=count, metavar="SECONDS", help="begin no trial later than that (default: no end)"
    )
    parser.add_argument(
        "--keep-models", action="store_true", help="keep the policies of all trials, not of the best alone"
    )
    begins = parser.add_argument_group("when a study begins")
    for name, metavar, meaning in (
        ("--holdout-days", "DAYS", "the last ones, which no trial can read and which judge the winner (default: 28)"),
        ("--n-envs", "N", "environments of each training (default: as configured)"),
        ("--seeds", "N", "trainings of each trial, by seeds (default: 3)"),
        ("--test-seeds", "N", "other seeds, of the judgement (default: 5)"),
        ("--seed", "N", "from which all others are drawn (default: a new one)"),
    ):
        begins.add_argument(name, type=count, metavar=metavar, help=meaning)
    parser.epilog = (
        "All other arguments are those of freqtrade backtesting; --timerange is validation and locked days together. "
        "Without any, a study goes on with those that it began with."
    )
    # Else --timeframe and others of freqtrade's would be cut off.
    parser.allow_abbrev = False
    parser.set_defaults(takes_freqtrades=True)


def _run(args: argparse.Namespace) -> int:
    from freqtrade.exceptions import FreqtradeException
    from rich.console import Console

    from mtfscalper.search.errors import StudyError
    from mtfscalper.search.new_study import Asked
    from mtfscalper.search.study_run import Request, run_study

    # As Ctrl-C: the workers give their trials back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = ("holdout_days", "n_envs", "seeds", "test_seeds", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    request = Request(
        name=args.study,
        arguments=args.freqtrades,
        trials=args.trials,
        workers=args.workers,
        asked=Asked(workers=args.workers, **given),
        given=given,
        storage=storage_of(args),
        timeout_seconds=args.timeout,
        keep_models=args.keep_models,
        user_data_dir=Path("user_data"),
    )
    try:
        return run_study(request, Console(highlight=False))
    except (StudyError, FreqtradeException, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


SUBCOMMANDS = (
    Subcommand("run", "search for better settings by real backtests, or go on searching", _run_arguments, _run),
)
