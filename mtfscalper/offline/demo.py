"""``mtfscalper demo``: train, backtest and show everything at once, without network, account or own data.

The demo is the real thing on a small stage: it starts the loopback exchange and runs the freqtrade command that a user
would type. Nothing in freqtrade is patched.
"""

import itertools
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from freqtrade.configuration import TimeRange
from freqtrade.exceptions import ConfigurationError
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from mtfscalper.freqai.archive import kept_folder
from mtfscalper.offline import (
    DEFAULT_PAIRS,
    DEFAULT_SEED,
    DEMO_TIMERANGE,
    EXIT_INTERRUPTED,
    OFFLINE_USER_DATA,
    OWN_CANDLES_DAYS,
    SYNTHETIC_DATADIR,
    ReplayError,
)
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.checkout import check_pairs, root_or_new, settings_of_files
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import (
    CONFIGS,
    FREQAI_MODEL,
    MAIN_CONFIG,
    STRATEGY,
    as_typed,
    freqtrade_command,
    run_freqtrade,
    runnable,
    write_overlay,
)
from mtfscalper.offline.synthetic import DEFAULT_START, DEFAULT_STOP, TIMEFRAME_MINUTES, write_market

COMMAND = "mtfscalper demo"
IDENTIFIER = "mtfscalper_demo"
# `make clean` removes the models of the synthetic market, and these not.
IDENTIFIER_OWN_CANDLES = "mtfscalper_demo_own"
EXIT_WITHOUT_RESULT = 1


class DemoRequest(NamedTuple):
    """What the user asked for.

    :ivar datadir: own freqtrade data directory; None takes the synthetic market
    :ivar port: port of the loopback exchange; 0 takes a free one
    :ivar timerange: freqtrade timerange to backtest; None takes the synthetic market's
    :ivar pairs: pairs to trade
    :ivar configs: further freqtrade configuration files, later ones override earlier ones
    """

    datadir: Path | None = None
    port: int = 0
    timerange: str | None = None
    pairs: tuple[str, ...] = DEFAULT_PAIRS
    configs: tuple[Path, ...] = ()


def run_demo(request: DemoRequest, console: Console, report: Callable[[Path, Path], None] = lambda *_: None) -> int:
    """Run the demo.

    :param request: what the user asked for
    :param console: where the demo speaks; freqtrade writes to the terminal itself
    :param report: is given the result's file and the directory of its candles, and shows what the result is worth
    :return: freqtrade's exit status; 1 where freqtrade reports success but wrote no result; 130 after Ctrl-C
    :raises ReplayError: when the request cannot be run
    """
    here = Path.cwd()
    configs = [here / config for config in request.configs]
    if request.datadir is not None and request.timerange is None:
        raise ReplayError(
            f"mtfscalper demo: --datadir {request.datadir} was given without --timerange; say which part of your "
            "candles to backtest, for example --timerange 20250401-20250415 (training needs the weeks before it)"
        )
    root = root_or_new(here, console)
    if request.datadir is None:
        datadir, timerange = SYNTHETIC_DATADIR, request.timerange or DEMO_TIMERANGE
        write_market(root / datadir)
    else:
        datadir, timerange = here / request.datadir, str(request.timerange)
    settings = settings_of_files([*(root / config for config in CONFIGS), *configs], root, COMMAND)
    _check_candles(root / datadir, request.pairs, timerange, settings.train_period_days)

    models = root / OFFLINE_USER_DATA / "models"
    with (
        _exclusive_identifier(models, IDENTIFIER if request.datadir is None else IDENTIFIER_OWN_CANDLES) as identifier,
        ReplayExchange(root / datadir, request.port) as exchange,
        tempfile.TemporaryDirectory(prefix="mtfscalper-demo-") as scratch,
    ):
        overlay = write_overlay(Path(scratch, "overlay.json"), exchange.url, {"freqai": {"identifier": identifier}})
        command = freqtrade_command(
            "backtesting",
            (*CONFIGS, *configs, overlay),
            datadir=datadir,
            strategy=STRATEGY,
            freqaimodel=FREQAI_MODEL,
            pairs=request.pairs,
            timerange=timerange,
        )
        _announce(console, request, exchange.url, timerange)
        shown = OFFLINE_USER_DATA / "models" / identifier
        console.out(f"Removing {shown}, if an earlier demo left it: a demo always trains.")
        console.out(f"$ {as_typed(command)}")
        for folder in (models / identifier, kept_folder(models, identifier)):
            if folder.exists():
                shutil.rmtree(folder)

        began, clock = time.time(), time.perf_counter()
        status = run_freqtrade(command, root)
        seconds = time.perf_counter() - clock
        return _conclude(
            console, request, status, seconds, root, identifier, began, lambda result: report(result, root / datadir)
        )


@contextmanager
def _exclusive_identifier(models: Path, name: str = IDENTIFIER) -> Iterator[str]:
    """Hold an identifier no other running demo uses, so that none removes another's models.

    :param name: the identifier, or how it begins
    """
    models.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        identifier = name if number == 1 else f"{name}_{number}"
        try:
            with FileLock(models / f".{identifier}.lock", timeout=0):
                yield identifier
                return
        except Timeout:
            continue


def _check_candles(datadir: Path, pairs: Sequence[str], timerange: str, training_days: int) -> None:
    """Refuse pairs and days without candles.

    :param training_days: needed before the first of these days
    :raises ReplayError: naming what the directory has
    """
    store = CandleStore(datadir)
    check_pairs(store, pairs, COMMAND)
    example = "two days such as 20250401-20250415, the earlier one first"
    try:
        days = TimeRange.parse_timerange(timerange)
    except ConfigurationError as error:
        raise ReplayError(f"mtfscalper demo: --timerange is {timerange!r}: {error}; accepted: {example}") from error
    if not days.startts or not days.stopts or days.startts >= days.stopts:
        raise ReplayError(f"mtfscalper demo: --timerange is {timerange!r}; accepted: {example}")
    for pair in pairs:
        opened = store.finest(pair).open_ms
        first, last = (datetime.fromtimestamp(int(ms) / 1000, UTC) for ms in (opened[0], opened[-1]))
        earliest = first + timedelta(days=training_days)
        if days.startts < earliest.timestamp() or days.stopts > last.timestamp() + timedelta(days=1).total_seconds():
            raise ReplayError(
                f"mtfscalper demo: --timerange is {timerange!r}, and {datadir} has candles of {pair} from "
                f"{first:%Y%m%d} to {last:%Y%m%d}; accepted: days among {earliest:%Y%m%d}-{last:%Y%m%d}, after "
                f"{training_days} days to train on; remedy: choose among them, or download more"
            )


def _announce(console: Console, request: DemoRequest, url: str, timerange: str) -> None:
    if request.datadir is None:
        market = f"a synthetic market (seed {DEFAULT_SEED}, {DEFAULT_START:%Y-%m-%d} to {DEFAULT_STOP:%Y-%m-%d})"
        warning = "\nThe market's trends are built in: a profit here says nothing about a real one."
    else:
        market, warning = f"the candles in {request.datadir}", ""
    text = (
        f"FreqAI trains a PPO policy on {market}; freqtrade backtests {STRATEGY} with it.{warning}\n\n"
        f"pairs      {', '.join(request.pairs)}\n"
        f"timerange  {timerange}; training uses the weeks before\n"
        f"exchange   {url}, a replay on this computer; nothing else is contacted"
    )
    console.print(Panel(escape(text), title="mtfscalper demo"))


def _conclude(
    console: Console,
    request: DemoRequest,
    status: int,
    seconds: float,
    root: Path,
    identifier: str,
    began: float,
    report: Callable[[Path], None],
) -> int:
    if status == EXIT_INTERRUPTED:
        console.out(f"Interrupted after {seconds:.0f} s; freqtrade and the replay exchange have stopped.")
        return status
    if status != 0:
        console.out(f"freqtrade ended with exit status {status} after {seconds:.0f} s; see its output above.")
        return status
    results = root / OFFLINE_USER_DATA / "backtest_results"
    fresh = [path for path in results.glob("*.zip") if path.stat().st_mtime >= began - 1]
    if not fresh:
        # freqtrade leaves with status 0 after a configuration error.
        console.out(f"freqtrade ended without a result in {results}; see its last lines above.")
        return EXIT_WITHOUT_RESULT
    result = max(fresh, key=lambda path: path.stat().st_mtime).relative_to(root)
    models = OFFLINE_USER_DATA / "models" / identifier
    console.print(Panel(f"Trained and backtested in {seconds:.0f} seconds.", title="mtfscalper demo"))
    console.out(f"models       {models}")
    console.out(f"results      {result}")
    report(root / result)
    console.out("\nLook at what it learned while it trained:")
    if Path.cwd() != root:
        console.out(f"  cd {shlex.quote(str(root))}")
    console.out(f"  {runnable(['tensorboard', '--logdir', str(models / 'tensorboard')], root)}")
    if request.datadir is None:
        console.out("\nNow with candles of your own (the first command asks the exchange, which needs no account):")
        timeframes = list(TIMEFRAME_MINUTES)
        download = ["freqtrade", "download-data", "--config", str(MAIN_CONFIG), "--timeframes", *timeframes]
        console.out(f"  {runnable([*download, '--days', str(OWN_CANDLES_DAYS)], root)}")
        last = datetime.now(UTC).date() - timedelta(days=1)
        timerange = f"{last - timedelta(days=14):%Y%m%d}-{last:%Y%m%d}"
        again = ["mtfscalper", "demo", "--datadir", "user_data/data/binance", "--timerange", timerange]
        console.out(f"  {runnable(again, root)}")
    else:
        console.out("\nNow with the full training schedule, and whether it was any good:")
        command = freqtrade_command(
            "backtesting",
            [MAIN_CONFIG],
            strategy=STRATEGY,
            freqaimodel=FREQAI_MODEL,
            datadir=Path.cwd() / request.datadir,
            timerange=request.timerange,
        )
        console.out(f"  {runnable(['freqtrade', *command[3:]], root)}")
        console.out(f"  {runnable(['mtfscalper', 'report', '--datadir', str(Path.cwd() / request.datadir)], root)}")
    return status
