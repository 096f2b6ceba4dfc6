"""The subcommands of ``mtfscalper study``."""

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mtfscalper.search.gates import Limits

from mtfscalper.command_help import examples
from mtfscalper.monitoring.study_options import add_watch_arguments

# Of what stands below the options.
_WIDTH = 100

# A command imports what it needs when it runs: with freqtrade and torch, --help would take seconds.


class Command(NamedTuple):
    """A command of ``mtfscalper``, or of one of its commands.

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
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        said = [] if subparser.epilog is None else [textwrap.fill(subparser.epilog, _WIDTH)]
        subparser.epilog = "\n\n".join([*said, examples("study", command.name)])
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
        ("--holdout-days", "DAYS", "the last ones, which no trial can read and which judge the winner (default: 42)"),
        ("--n-envs", "N", "environments of each training (default: as configured)"),
        ("--seeds", "N", "trainings of each trial, by seeds (default: 3)"),
        ("--test-seeds", "N", "other seeds, of the judgement (default: 5)"),
        ("--seed", "N", "from which all others are drawn (default: a new one)"),
    ):
        begins.add_argument(name, type=count, metavar=metavar, help=meaning)
    parser.epilog = (
        "All other arguments are those of freqtrade backtesting; --timerange is validation and locked days together. "
        "Without any, a study goes on with those that it began with. Exit status: 0 as many trials as were asked "
        "for, or the time is over, 2 it cannot begin, 3 it stopped, for trials or workers failed, 130 stopped."
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


# ---------------------------------------------------------------------- study judge


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--userdir", type=Path, default=Path("user_data"), help="freqtrade's user directory (default: %(default)s)"
    )


def _judge_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    _add_where(parser)
    parser.add_argument("--trial", type=int, metavar="NUMBER", help="default: the best finished one")
    parser.add_argument(
        "--max-drawdown",
        type=_share,
        metavar="SHARE",
        help="of the wallet, from its peak, beyond which no winner passes (default: 0.25)",
    )
    parser.add_argument("--again", action="store_true", help="look anew where that trial has been judged already")
    parser.add_argument("--keep-models", action="store_true", help="keep the policies that are trained to judge")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the judgement there too, as JSON")
    parser.epilog = (
        "Every judgement looks at the locked candles, is counted, and makes the next one harder to pass. Exit status: "
        "0 every gate is passed, 1 not, 2 it cannot be judged."
    )


def _judge(args: argparse.Namespace) -> int:
    from rich.console import Console

    from mtfscalper.search.judge_command import JudgeRequest, judge_study

    def work() -> int:
        request = JudgeRequest(
            study=args.study,
            user_data_dir=args.userdir,
            storage=storage_of(args),
            trial=args.trial,
            limits=_limits(args),
            again=args.again,
            keep_models=args.keep_models,
            json=args.json,
        )
        return 0 if judge_study(request, Console(highlight=False)).passed else 1

    return _told(work)


# ---------------------------------------------------------------------- study deploy


def _deploy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", metavar="NAME", help="the study whose trial is deployed")
    parser.add_argument("--storage", metavar="URL", help="of the study, see mtfscalper study run")
    _add_where(parser)
    parser.add_argument(
        "--name", metavar="LINE", help="what one bot follows: user_data/deployed/LINE.json (default: the study's name)"
    )
    parser.add_argument("--trial", type=int, metavar="NUMBER", help="default: the best finished one")
    parser.add_argument("--force", metavar="REASON", help="deploy without passed gates; the reason is recorded")
    parser.add_argument(
        "--reload",
        metavar="URL",
        help="tell the bot at this address to read its config again; credentials in FREQTRADE__API_SERVER__USERNAME "
        "and FREQTRADE__API_SERVER__PASSWORD",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rollback", action="store_true", help="put back what the line had before")
    what.add_argument("--watch", action="store_true", help="judge each new best trial once and deploy what passes")
    parser.add_argument(
        "--after-trials",
        type=count,
        metavar="N",
        help="with --watch: judge none before N have finished (default: 10)",
    )
    parser.add_argument(
        "--max-drawdown", type=_share, metavar="SHARE", help="with --watch: see mtfscalper study judge (default: 0.25)"
    )
    parser.epilog = (
        "Exit status: 0 deployed, 2 refused or it cannot be done, 3 deployed or put back, and the bot of --reload does "
        "not follow. What is done, or refused to a line, is appended to user_data/deployed/deployments.jsonl."
    )


def _deploy(args: argparse.Namespace) -> int:
    from rich.console import Console

    from mtfscalper.search.deploy_command import AFTER_TRIALS, DeployRequest, deploy_study, rollback, watch
    from mtfscalper.search.errors import StudyError

    console = Console(highlight=False)

    def work() -> int:
        _check_deploy(args)
        line = args.name or args.study
        if line is None:
            raise StudyError("--name is missing; accepted: the name of the line that is put back; remedy: name it")
        request = DeployRequest(
            study=args.study,
            line=line,
            user_data_dir=args.userdir,
            storage=storage_of(args),
            trial=args.trial,
            force=args.force,
            reload=args.reload,
            limits=_limits(args),
            after_trials=args.after_trials or AFTER_TRIALS,
        )
        if args.watch:
            watch(request, console)
        elif args.rollback:
            rollback(request, console)
        else:
            deploy_study(request, console)
        return 0

    return _told(work)


def _check_deploy(args: argparse.Namespace) -> None:
    """Refuse options that would be ignored."""
    from mtfscalper.search.errors import StudyError

    mode = "--rollback" if args.rollback else "--watch" if args.watch else "a single deployment"
    given = {
        "--study beside --name": args.rollback and args.study is not None and args.name is not None,
        "--storage": args.storage is not None,
        "--trial": args.trial is not None,
        "--force": args.force is not None,
        "--after-trials": args.after_trials is not None,
        "--max-drawdown": args.max_drawdown is not None,
    }
    read = {
        "--rollback": (),
        "--watch": ("--storage", "--after-trials", "--max-drawdown"),
        "a single deployment": ("--storage", "--trial", "--force"),
    }[mode]
    if unread := [name for name, is_given in given.items() if is_given and name not in read]:
        raise StudyError(
            f"{', '.join(unread)} means nothing with {mode}; accepted: {', '.join(read) or 'none of these'}; remedy: "
            "leave it away"
        )
    if args.study is None and not args.rollback:
        raise StudyError("--study is missing; accepted: the name of a study; remedy: name it")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: a share between 0 and 1, such as 0.25")
    return value


def _limits(args: argparse.Namespace) -> "Limits | None":
    """Those that are asked for; None where none is."""
    from mtfscalper.search.gates import Limits

    return None if args.max_drawdown is None else Limits(drawdown=args.max_drawdown)


def _told(work: Callable[[], int]) -> int:
    """Do what is asked for, and tell in one line why it cannot be."""
    from freqtrade.exceptions import FreqtradeException

    from mtfscalper.search.errors import NotFollowedError, StudyError

    try:
        return work()
    except NotFollowedError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 3
    except (StudyError, FreqtradeException, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


SUBCOMMANDS = (
    Command("run", "search for better settings by real backtests, or go on searching", _run_arguments, _run),
    Command("watch", "show how a study is, and what is left of it", add_watch_arguments, _watch),
    Command("judge", "hold the best trial against its gates, on the locked candles", _judge_arguments, _judge),
    Command("deploy", "put a trial that has passed in a bot's place, or take it back", _deploy_arguments, _deploy),
)
