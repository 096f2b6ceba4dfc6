"""The subcommands of ``mtfscalper study``."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mtfscalper.monitoring.study_options import add_watch_arguments

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
    begins.add_argument(
        "--holdout-days",
        type=count,
        default=28,
        metavar="DAYS",
        help="the last ones, which no trial can read and which judge the winner (default: %(default)s)",
    )
    begins.add_argument(
        "--n-envs", type=count, metavar="N", help="environments of each training (default: the config's)"
    )
    begins.add_argument(
        "--seeds", type=count, default=3, metavar="N", help="trainings of each trial, by seeds (default: %(default)s)"
    )
    begins.add_argument(
        "--test-seeds", type=count, default=5, metavar="N", help="other seeds, of the judgement (default: %(default)s)"
    )
    begins.add_argument("--seed", type=count, metavar="N", help="from which all others are drawn (default: a new one)")
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

    asked = Asked(args.holdout_days, args.seeds, args.test_seeds, args.n_envs, args.workers, args.seed)
    request = Request(
        name=args.study,
        arguments=args.freqtrades,
        trials=args.trials,
        workers=args.workers,
        asked=asked,
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


# ---------------------------------------------------------------------- study watch


def _watch(args: argparse.Namespace) -> int:
    from rich.console import Console

    from mtfscalper.search.errors import StudyError
    from mtfscalper.search.installed import check_installed

    args.storage = storage_of(args)
    try:
        check_installed("optuna")
        from mtfscalper.monitoring.study_watch import watch

        return watch(args, Console(highlight=False))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


# ---------------------------------------------------------------------- dashboard


def dashboard(args: argparse.Namespace) -> int:
    """``mtfscalper dashboard``."""
    from mtfscalper.search.errors import StudyError
    from mtfscalper.search.installed import check_installed

    args.storage = storage_of(args)
    # As Ctrl-C: the port does not outlive this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_installed("optuna", "optuna_dashboard", "werkzeug")
        from mtfscalper.monitoring.dashboard import serve

        return serve(args)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


SUBCOMMANDS = (
    Subcommand("run", "search for better settings by real backtests, or go on searching", _run_arguments, _run),
    Subcommand("watch", "show how a study is, and what is left of it", add_watch_arguments, _watch),
)
