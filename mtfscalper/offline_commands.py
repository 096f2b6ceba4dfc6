"""The commands that need no exchange: ``demo``, ``dry-run``, ``replay-exchange`` and ``synthetic``.

Each imports what it needs when it runs: with freqtrade and torch, ``--help`` would take seconds.
"""

import argparse
import signal
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mtfscalper.offline import DEFAULT_PAIRS, DEFAULT_PORT, DEFAULT_SEED, DEMO_TIMERANGE, SYNTHETIC_DATADIR


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``demo``."""
    parser.add_argument(
        "--datadir", type=Path, help="your own freqtrade data directory, with --timerange (default: synthetic market)"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the loopback exchange (default: a free one)")
    parser.add_argument("--timerange", help=f"what to backtest, as freqtrade writes it (synthetic: {DEMO_TIMERANGE})")
    parser.add_argument("--pairs", nargs="+", metavar="PAIR", help=f"default: {' '.join(DEFAULT_PAIRS)}")
    parser.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE", help="further configuration; repeatable"
    )


def demo(args: argparse.Namespace) -> int:
    """Train and backtest at once."""
    from rich.console import Console

    from mtfscalper.offline.demo import DemoRequest, run_demo
    from mtfscalper.reporting.demo_report import report_on_demo

    let_termination_clean_up()
    request = DemoRequest(
        datadir=args.datadir,
        port=args.port,
        timerange=args.timerange,
        pairs=tuple(args.pairs or DEFAULT_PAIRS),
        configs=tuple(args.config),
    )
    console = Console(highlight=False)
    return run_demo(request, console, partial(report_on_demo, console))


def dry_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``dry-run``."""
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


def dry_run(args: argparse.Namespace) -> int:
    """Let a bot trade a replayed market."""
    from rich.console import Console

    from mtfscalper.offline.dry_run import DryRunRequest, run_dry_run
    from mtfscalper.offline.faults import read_rules

    let_termination_clean_up()
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


def replay_exchange_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``replay-exchange``."""
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


def replay_exchange(args: argparse.Namespace) -> int:
    """Serve candles until Ctrl-C."""
    from mtfscalper.offline.served import ReplayRequest, serve
    from mtfscalper.offline.synthetic import write_market

    let_termination_clean_up()
    datadir = args.datadir
    if datadir is None:
        datadir = SYNTHETIC_DATADIR
        if not datadir.exists() or not any(datadir.iterdir()):
            write_market(datadir)
    request = ReplayRequest(datadir, args.port, args.start, args.as_dated, args.faults, args.seed, args.write_config)
    return serve(request)


def synthetic_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``synthetic``."""
    parser.add_argument(
        "--datadir", type=Path, default=SYNTHETIC_DATADIR, help=f"where to write (default: {SYNTHETIC_DATADIR})"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="another seed is another market (default: %(default)s)"
    )


def synthetic(args: argparse.Namespace) -> int:
    """Write the synthetic market."""
    from mtfscalper.offline.synthetic import DEFAULT_START, DEFAULT_STOP, write_market

    written = write_market(args.datadir, args.seed)
    print(
        f"{'Wrote' if written else 'Already there:'} the synthetic market of seed {args.seed} in {args.datadir}: "
        f"{', '.join(DEFAULT_PAIRS)}, {DEFAULT_START:%Y-%m-%d} to {DEFAULT_STOP:%Y-%m-%d}."
    )
    return 0


def let_termination_clean_up() -> None:
    """Treat SIGTERM as Ctrl-C, so that child processes and the port do not outlive this one."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
