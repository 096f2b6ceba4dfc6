"""The ``mtfscalper`` command."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mtfscalper.monitoring.study_options import add_dashboard_arguments
from mtfscalper.offline import (
    DEFAULT_PAIRS,
    DEFAULT_PORT,
    DEFAULT_SEED,
    DEMO_TIMERANGE,
    EXIT_INTERRUPTED,
    SYNTHETIC_DATADIR,
    ReplayError,
)
from mtfscalper.study_commands import add_subcommands, dashboard

if TYPE_CHECKING:
    pass

# A command imports what it needs when it runs: with freqtrade and torch, --help would take seconds.


class Command(NamedTuple):
    """A subcommand.

    :ivar name: what the user types
    :ivar summary: one line for ``--help``
    :ivar add_arguments: declares its options
    :ivar run: does the work and returns the exit status
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--datadir", type=Path, help="your own freqtrade data directory, with --timerange (default: synthetic market)"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the loopback exchange (default: a free one)")
    parser.add_argument("--timerange", help=f"what to backtest, as freqtrade writes it (synthetic: {DEMO_TIMERANGE})")
    parser.add_argument("--pairs", nargs="+", metavar="PAIR", help=f"default: {' '.join(DEFAULT_PAIRS)}")
    parser.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE", help="further configuration; repeatable"
    )


def _demo(args: argparse.Namespace) -> int:
    from rich.console import Console

    from mtfscalper.offline.demo import DemoRequest, run_demo
    from mtfscalper.reporting.demo_report import report_on_demo

    _let_termination_clean_up()
    request = DemoRequest(
        datadir=args.datadir,
        port=args.port,
        timerange=args.timerange,
        pairs=tuple(args.pairs or DEFAULT_PAIRS),
        configs=tuple(args.config),
    )
    console = Console(highlight=False)
    return run_demo(request, console, partial(report_on_demo, console))


def _dry_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--datadir", type=Path, help="your own freqtrade data directory (default: a synthetic market)")
    parser.add_argument(
        "--from", dest="start", type=_moment, metavar="DATE", help="the bot's first moment, UTC: 2024-10-01[T08:30]"
    )
    parser.add_argument("--hours", type=float, default=24.0, help="of the bot's time (default: %(default)g)")
    parser.add_argument(
        "--speed", type=_speed, default=None, help="times true time, or max: as fast as this machine (default: max)"
    )
    parser.add_argument("--pairs", nargs="+", metavar="PAIR", help=f"default: {' '.join(DEFAULT_PAIRS)}")
    parser.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE", help="further configuration; repeatable"
    )
    parser.add_argument(
        "--faults", metavar="RATE|FILE", help="what goes wrong on the exchange: a share of all requests, or a script"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="of the synthetic market and the faults (default: %(default)s)"
    )
    parser.add_argument(
        "--userdir", type=Path, help="the bot's user directory, to go on in an earlier one (default: a new one)"
    )
    parser.add_argument(
        "--ui", type=int, nargs="?", const=8080, metavar="PORT", help="serve FreqUI and REST on 127.0.0.1 (8080)"
    )
    parser.add_argument(
        "--simulated-live",
        action="store_true",
        help="freqtrade's live mode, with simulated money on the loopback exchange: no real key, no real order",
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: 2024-10-01 or 2024-10-01T08:30, in UTC") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _speed(text: str) -> int | None:
    if text == "max":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: a whole number of at least 1, or max")
    return int(text)


def _dry_run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from mtfscalper.offline.dry_run import DryRunRequest, run_dry_run
    from mtfscalper.offline.faults import read_rules

    _let_termination_clean_up()
    request = DryRunRequest(
        datadir=args.datadir,
        start=args.start,
        hours=args.hours,
        speed=args.speed,
        pairs=tuple(args.pairs or DEFAULT_PAIRS),
        configs=tuple(args.config),
        seed=args.seed,
        rules=read_rules(args.faults) if args.faults else (),
        userdir=args.userdir,
        ui_port=args.ui,
        is_live=args.simulated_live,
    )
    return run_dry_run(request, Console(highlight=False))


def _replay_exchange_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--datadir", type=Path, help=f"freqtrade data directory (default: {SYNTHETIC_DATADIR}, generated if empty)"
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port on 127.0.0.1 (default: %(default)s, 0: a free one)"
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=_moment,
        metavar="DATE",
        help="serve the candles as if this day were today, for a bot by true time (default: a week before the last)",
    )
    parser.add_argument(
        "--as-dated", action="store_true", help="serve the candles under their own dates, for download-data"
    )
    parser.add_argument("--faults", metavar="RATE|FILE", help="see dry-run")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the faults (default: %(default)s)")
    parser.add_argument(
        "--write-config", type=Path, metavar="FILE", help="write the configuration that sends freqtrade here"
    )


def _replay_exchange(args: argparse.Namespace) -> int:
    from mtfscalper.offline.served import ReplayRequest, serve
    from mtfscalper.offline.synthetic import write_market

    _let_termination_clean_up()
    datadir = args.datadir
    if datadir is None:
        datadir = SYNTHETIC_DATADIR
        if not datadir.exists() or not any(datadir.iterdir()):
            write_market(datadir)
    request = ReplayRequest(datadir, args.port, args.start, args.as_dated, args.faults, args.seed, args.write_config)
    return serve(request)


def _synthetic_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--datadir", type=Path, default=SYNTHETIC_DATADIR, help=f"where to write (default: {SYNTHETIC_DATADIR})"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="another seed is another market (default: %(default)s)"
    )


def _synthetic(args: argparse.Namespace) -> int:
    from mtfscalper.offline.synthetic import DEFAULT_START, DEFAULT_STOP, write_market

    written = write_market(args.datadir, args.seed)
    print(
        f"{'Wrote' if written else 'Already there:'} the synthetic market of seed {args.seed} in {args.datadir}: "
        f"{', '.join(DEFAULT_PAIRS)}, {DEFAULT_START:%Y-%m-%d} to {DEFAULT_STOP:%Y-%m-%d}."
    )
    return 0


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

    _let_termination_clean_up()
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


COMMANDS = (
    Command("demo", "train and backtest at once, without network or own data", _demo_arguments, _demo),
    Command("dry-run", "let a bot trade a replayed market on a fast clock", _dry_run_arguments, _dry_run),
    Command("replay-exchange", "serve candles to freqtrade on 127.0.0.1", _replay_exchange_arguments, _replay_exchange),
    Command("synthetic", "write the synthetic market to a directory", _synthetic_arguments, _synthetic),
    Command("report", "say whether a backtest's policy earned anything over its entries", _report_arguments, _report),
    Command("audit", "say which trades are not what training assumed, and why", _audit_arguments, _audit),
    Command("train", "train what a backtest lacks, and trade nothing", _train_arguments, _train),
    Command("study", "search settings by real backtests, and judge what is found", add_subcommands, _study),
    Command("status", "tell how a bot is, for people and monitoring systems", _status_arguments, _status),
    Command("dashboard", "show a study in a browser, with TensorBoard beside it", add_dashboard_arguments, dashboard),
    Command("seal", "let policies of your own from another machine be used here", _seal_arguments, _seal),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: arguments without the program's name; None takes those of the process
    :return: exit status: 0 success, 2 a request that cannot be run, 130 interrupted, or the command's own
    """
    parser = argparse.ArgumentParser(prog="mtfscalper", description="Reinforcement learning for freqtrade.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary, description=command.summary)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
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


def _let_termination_clean_up() -> None:
    """Treat SIGTERM as Ctrl-C, so that child processes and the port do not outlive this one."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
