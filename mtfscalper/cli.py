"""The ``mtfscalper`` command."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mtfscalper import __version__
from mtfscalper.command_help import epilog
from mtfscalper.first_commands import completion_arguments, init, init_arguments, print_completion
from mtfscalper.monitoring.study_options import add_dashboard_arguments
from mtfscalper.offline import EXIT_INTERRUPTED, ReplayError
from mtfscalper.offline_commands import (
    demo,
    demo_arguments,
    dry_run,
    dry_run_arguments,
    let_termination_clean_up,
    replay_exchange,
    replay_exchange_arguments,
    synthetic,
    synthetic_arguments,
)
from mtfscalper.study_commands import Command, add_subcommands, dashboard

# A command imports what it needs when it runs: with freqtrade and torch, --help would take seconds.


def _seal_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="user_data/models/<identifier>, or a period in it")
    parser.add_argument(
        "--userdir", type=Path, help="whose key seals (default: the user directory that FOLDER lies in)"
    )


def _seal(args: argparse.Namespace) -> int:
    from mtfscalper.freqai.sealing import SealingError, seal_folder, user_directory
    from mtfscalper.seals import Seals

    try:
        seals = Seals(args.userdir or user_directory(args.folder))
        for sealed in seal_folder(args.folder, seals):
            print(f"Sealed {sealed}")
    except (SealingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("Bots and backtests of this user directory now unpickle these files, and whatever code is in them.")
    return 0


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "result",
        type=Path,
        nargs="?",
        metavar="RESULT|DATABASE",
        help="a backtest's export, a folder of them (the newest), or a bot's database, which needs --config",
    )
    _run_arguments(parser)
    parser.add_argument(
        "--slippage-bps",
        type=float,
        metavar="BPS",
        help="how far a rate may lie from the one expected, in basis points (default: 5 of a bot, 0 of a backtest)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the audit there too, as JSON")


def _audit(args: argparse.Namespace) -> int:
    from freqtrade.exceptions import OperationalException
    from rich.console import Console

    from mtfscalper.artefacts import write_json
    from mtfscalper.market.tape import TapeError
    from mtfscalper.reporting.audit.audit import audit_of
    from mtfscalper.reporting.audit.table import print_audit
    from mtfscalper.reporting.run_result import Asked, ReportError

    asked = Asked(args.result, args.strategy, args.userdir, tuple(args.config), args.datadir, args.strategy_path)
    try:
        with Console(stderr=True).status("") as status:
            audit = audit_of(asked, args.slippage_bps, lambda text: status.update(f"{text} ..."))
        print_audit(audit, Console(highlight=False))
        if args.json is not None:
            write_json(args.json, audit.as_json())
            print(f"The audit as JSON: {args.json}")
    except (ReportError, TapeError, OperationalException, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 1 if audit.reasons else 0


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "result", type=Path, nargs="?", metavar="RESULT", help="a backtest's export, or a folder of them (the newest)"
    )
    _run_arguments(parser)
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="where the page is written (default: beside RESULT, under its name)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too, as JSON")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    """What else lies beside a result."""
    parser.add_argument("--userdir", type=Path, help="freqtrade's user directory (default: RESULT's, else user_data)")
    parser.add_argument(
        "--datadir", type=Path, help="the candles of the backtest (default: those of the user directory)"
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="overrides the config in RESULT; repeatable",
    )
    parser.add_argument("--strategy", help="which, where RESULT holds several")
    parser.add_argument(
        "--strategy-path",
        type=Path,
        metavar="DIR",
        help="where the strategy's file lies (default: as in RESULT's config)",
    )


def _report(args: argparse.Namespace) -> int:
    from freqtrade.exceptions import OperationalException
    from rich.console import Console

    from mtfscalper.artefacts import write_json
    from mtfscalper.market.tape import TapeError
    from mtfscalper.reporting.page.render import check_plotly, default_path, write_page
    from mtfscalper.reporting.report import report_of
    from mtfscalper.reporting.run_result import Asked, ReportError
    from mtfscalper.reporting.tables import print_report

    asked = Asked(args.result, args.strategy, args.userdir, tuple(args.config), args.datadir, args.strategy_path)
    waiting = Console(stderr=True)
    try:
        check_plotly()
        with waiting.status("") as status:
            report = report_of(asked, lambda text: status.update(f"{text} ..."))
        print_report(report, Console(highlight=False))
        file = args.html or default_path(report)
        write_page(report, file)
        print(f"The report as a page: {file}")
        if args.json is not None:
            write_json(args.json, report.as_json())
            print(f"The report as JSON: {args.json}")
    except (ReportError, TapeError, OperationalException, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained and why, and write nothing")
    parser.add_argument("--workers", type=int, metavar="N", help="train N policies side by side, in processes")
    parser.epilog = "All other arguments are those of freqtrade backtesting."
    # Else --dry-run-wallet and others of freqtrade's would be cut off.
    parser.allow_abbrev = False
    parser.set_defaults(takes_freqtrades=True)


def _train(args: argparse.Namespace) -> int:
    from freqtrade.exceptions import FreqtradeException
    from rich.console import Console

    from mtfscalper.monitoring.train_command import train

    let_termination_clean_up()
    try:
        return train(args.freqtrades, args.workers, plans_only=args.dry_run, console=Console(highlight=False))
    except (FreqtradeException, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _study(args: argparse.Namespace) -> int:
    """Never called: each subcommand has its own."""
    raise AssertionError(args)


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--userdir", type=Path, help="freqtrade's user directory (default: user_data, or the config's)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--identifier", help="freqai.identifier of the bot (default: every bot that has run there)")
    which.add_argument("--config", type=Path, action="append", metavar="FILE", help="the bot's config; repeatable")
    parser.add_argument("--prometheus", action="store_true", help="print figures in Prometheus's text format")


def _status(args: argparse.Namespace) -> int:
    from rich.console import Console

    from mtfscalper.monitoring.bot_status import prometheus, show, statuses, worst

    identifier, userdir = args.identifier, args.userdir
    if args.config:
        from freqtrade.configuration.load_config import load_from_files
        from freqtrade.exceptions import OperationalException

        try:
            config = load_from_files([str(path) for path in args.config])
            identifier = str(config["freqai"]["identifier"])
        except (OperationalException, OSError, KeyError, TypeError) as error:
            print(f"error: no freqai.identifier can be read from the config: {error}", file=sys.stderr)
            return 3
        userdir = userdir or config.get("user_data_dir")
    found = statuses(Path(userdir or "user_data") / "models", identifier)
    if args.prometheus:
        print(prometheus(found), end="")
    else:
        for status in found:
            show(status, Console(highlight=False))
    return int(worst(found))


def _completion(args: argparse.Namespace) -> int:
    return print_completion(args, build_parser())


COMMANDS = (
    Command("init", "put strategy, model and configs into a folder", init_arguments, init),
    Command("demo", "train and backtest at once, without network or own data", demo_arguments, demo),
    Command("report", "say whether a backtest's policy earned anything over its entries", _report_arguments, _report),
    Command("audit", "say which trades are not what training assumed, and why", _audit_arguments, _audit),
    Command("train", "train what a backtest lacks, and trade nothing", _train_arguments, _train),
    Command("study", "search settings by real backtests, and judge what is found", add_subcommands, _study),
    Command("dry-run", "let a bot trade a replayed market on a fast clock", dry_run_arguments, dry_run),
    Command("status", "tell how a bot is, for people and monitoring systems", _status_arguments, _status),
    Command("dashboard", "show a study in a browser, with TensorBoard beside it", add_dashboard_arguments, dashboard),
    Command("seal", "let policies of your own from another machine be used here", _seal_arguments, _seal),
    Command("replay-exchange", "serve candles to freqtrade on 127.0.0.1", replay_exchange_arguments, replay_exchange),
    Command("synthetic", "write the synthetic market to a directory", synthetic_arguments, synthetic),
    Command("completion", "print a shell's completion script", completion_arguments, _completion),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="mtfscalper",
        description="Reinforcement learning for freqtrade.",
        epilog="mtfscalper COMMAND --help shows a command's options, examples and exit status.",
    )
    parser.add_argument("--version", action="version", version=f"mtfscalper {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.epilog = "\n\n".join(filter(None, (subparser.epilog, epilog(command.name))))
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None takes those of the process
    :return: exit status: 0 success, 2 a request that cannot be run, 130 interrupted, or the command's own
    """
    parser = build_parser()
    args, others = parser.parse_known_args(argv)
    if others and not hasattr(args, "takes_freqtrades"):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    args.freqtrades = others

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("mtfscalper").setLevel(logging.INFO)
    try:
        status: int = args.run(args)
    except ReplayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
