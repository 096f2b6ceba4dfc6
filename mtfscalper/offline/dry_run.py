"""``mtfscalper dry-run``: ``freqtrade trade --dry-run`` on a replayed market and a fast clock.

The bot is freqtrade's own, and so are its database, its log and its models. Exchange and time are simulated; with
``--simulated-live`` the bot is in freqtrade's live mode, and simulated is the money on the exchange.
"""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from freqtrade.configuration.load_config import load_from_files
from freqtrade.util import get_dry_run_wallet
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from mtfscalper.offline import (
    DEFAULT_PAIRS,
    DEFAULT_SEED,
    EXIT_INTERRUPTED,
    OFFLINE_USER_DATA,
    SYNTHETIC_DATADIR,
    ReplayError,
)
from mtfscalper.offline.account import DEFAULT_BALANCE
from mtfscalper.offline.bot_summary import BotSummary
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.checkout import check_pairs, root_or_new, settings_of_files
from mtfscalper.offline.faults import Rule
from mtfscalper.offline.freqtrade_command import FREQAI_MODEL, MAIN_CONFIG, STRATEGY, as_typed
from mtfscalper.offline.simulated_clock import SimulatedClock
from mtfscalper.offline.stage import Stage, StagedBot, StageHome
from mtfscalper.offline.synthetic import write_market

COMMAND = "mtfscalper dry-run"
CONFIGS = (MAIN_CONFIG, Path("configs/config_rl_demo.json"))
HOMES = OFFLINE_USER_DATA / "dry_runs"
SYNTHETIC_FROM = datetime(2024, 10, 1, tzinfo=UTC)
DEFAULT_HOURS = 24.0
# Before the user's own files, so that those may say otherwise.
DEFAULTS: dict[str, Any] = {"freqai": {"identifier": "dry_run"}, "internals": {"process_throttle_secs": 15}}
EXIT_BOT_ENDED = 1
# Without a terminal, a line of progress this often.
LINE_SECONDS = 30.0


class DryRunRequest(NamedTuple):
    """What the user asked for.

    :ivar datadir: own freqtrade data directory; None takes a synthetic market
    :ivar start: the bot's first moment; None takes one that leaves candles to train on
    :ivar hours: of the bot's time
    :ivar speed: times true time; None is as fast as this machine
    :ivar pairs: pairs to trade
    :ivar configs: further freqtrade configuration files, later ones override earlier ones
    :ivar seed: of the synthetic market and of the faults
    :ivar rules: of the faults that the exchange serves
    :ivar userdir: the bot's user directory; None makes a new one
    :ivar ui_port: port of FreqUI and the REST interface on the loopback address; None has none
    :ivar is_live: whether the bot is in freqtrade's live mode, with simulated money
    """

    datadir: Path | None = None
    start: datetime | None = None
    hours: float = DEFAULT_HOURS
    speed: int | None = None
    pairs: tuple[str, ...] = DEFAULT_PAIRS
    configs: tuple[Path, ...] = ()
    seed: int = DEFAULT_SEED
    rules: tuple[Rule, ...] = ()
    userdir: Path | None = None
    ui_port: int | None = None
    is_live: bool = False


def run_dry_run(request: DryRunRequest, console: Console) -> int:
    """Run a bot for some hours of its own time, and show what it did.

    :param request: what the user asked for
    :param console: where this command speaks; the bot writes to its log
    :return: 0; 1 where the bot ended before its time; 130 after Ctrl-C
    :raises ReplayError: when the request cannot be run
    """
    here = Path.cwd()
    root = root_or_new(here, console)
    market = _market(request, root, here)
    configs = [*CONFIGS, *(here / config for config in request.configs)]
    settings = settings_of_files([root / config for config in configs], root, COMMAND)
    home = StageHome(here / request.userdir if request.userdir else _new_home(root), request.is_live)
    # An earlier run's log goes on.
    log_from = home.log.stat().st_size if home.log.exists() else 0
    start = _checked_start(request, CandleStore(market), home, settings.train_period_days)
    stop = start + timedelta(hours=request.hours)
    balance = _balance([root / config for config in configs])

    with (
        _alone_in(home),
        Stage(home, market, start, request.speed, request.rules, request.seed, balance=balance) as stage,
    ):
        defaults = home.folder / "defaults.json"
        defaults.write_text(json.dumps(DEFAULTS, indent=2), encoding="utf-8")
        files = [*configs[: len(CONFIGS)], defaults, *configs[len(CONFIGS) :]]
        ui = _api_server(request.ui_port)
        overlay = stage.write_config([root / file for file in files], request.pairs, {"api_server": ui} if ui else {})
        command = stage.command(
            [*files, overlay],
            strategy=STRATEGY,
            freqaimodel=FREQAI_MODEL,
        )
        _announce(console, request, market, start, stop, stage, ui)
        console.out(f"$ {as_typed(command)}")
        bot = stage.start_bot(command, root)
        began = time.monotonic()
        interrupted = False
        try:
            with _progress(console, stage.clock, start, stop) as look:
                reached = bot.run_until(stop, look)
        except KeyboardInterrupt:
            interrupted, reached = True, False
            console.out("Interrupted: the bot is asked to end, a second Ctrl-C kills it.")
        status = _end(bot)
        simulated = stage.clock.now() - start
    summary = BotSummary.of(home, start, log_from)
    _conclude(console, stage, summary, simulated, time.monotonic() - began)
    if interrupted:
        return EXIT_INTERRUPTED
    if not reached:
        console.out(f"The bot ended by itself with exit status {status}; the end of {home.log} says why:")
        console.out("\n".join(home.log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]))
        return EXIT_BOT_ENDED
    return 0


@contextmanager
def _alone_in(home: StageHome) -> Iterator[None]:
    home.make()
    try:
        with FileLock(home.folder / ".dry_run.lock", timeout=0):
            yield
    except Timeout as error:
        raise ReplayError(
            f"{COMMAND}: another dry run uses {home.folder}; wait for its end, or choose another --userdir"
        ) from error


def _market(request: DryRunRequest, root: Path, here: Path) -> Path:
    if request.datadir is not None:
        return here / request.datadir
    own = request.seed != DEFAULT_SEED
    market = root / (SYNTHETIC_DATADIR.with_name(f"binance_seed_{request.seed}") if own else SYNTHETIC_DATADIR)
    write_market(market, request.seed)
    return market


def _new_home(root: Path) -> Path:
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return root / HOMES / name


def _checked_start(request: DryRunRequest, store: CandleStore, home: StageHome, training_days: int) -> datetime:
    """The first moment of the run: as asked, or where an earlier run in this user directory has ended."""
    ended = SimulatedClock(home.clock).now() if home.clock.exists() else None
    if request.is_live and home.database.exists():
        raise ReplayError(
            f"{COMMAND}: --simulated-live finds {home.database} of an earlier run, whose exchange is gone and its "
            "account with it; remedy: choose another --userdir, or remove that file"
        )
    check_pairs(store, request.pairs, COMMAND)
    if request.hours <= 0:
        raise ReplayError(f"{COMMAND}: --hours is {request.hours:g}; accepted: a number above 0")
    opened = [store.finest(pair) for pair in request.pairs]
    first = max(datetime.fromtimestamp(int(candles.open_ms[0]) / 1000, UTC) for candles in opened)
    last = min(datetime.fromtimestamp((int(candles.open_ms[-1]) + candles.length_ms) / 1000, UTC) for candles in opened)
    earliest = first + timedelta(days=training_days)
    length = timedelta(hours=request.hours)
    start = request.start
    if start is None:
        start = ended or (SYNTHETIC_FROM if request.datadir is None else last - length)
    elif ended is not None and start < ended:
        raise ReplayError(
            f"{COMMAND}: --from is {start:%Y-%m-%d %H:%M}, and the bot of {home.folder} has lived until "
            f"{ended:%Y-%m-%d %H:%M} already: it has trades of that time, and policies that were trained on it; "
            "accepted: a moment from then on; remedy: leave --from out, so that it goes on there, or choose another "
            "--userdir"
        )
    if not earliest <= start <= last - length:
        raise ReplayError(
            f"{COMMAND}: {request.hours:g} hours from {start:%Y-%m-%d %H:%M} are asked for, and {store.datadir} has "
            f"candles of {', '.join(request.pairs)} from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}, of which the "
            f"first {training_days} days are for training; accepted: a time among {earliest:%Y-%m-%d %H:%M} and "
            f"{last:%Y-%m-%d %H:%M}; remedy: choose --from and --hours, or download more candles"
        )
    return start


def _balance(configs: list[Path]) -> Decimal:
    """What the account has at first: as much as a dry run."""
    config = load_from_files([str(config) for config in configs])
    return Decimal(str(get_dry_run_wallet({"dry_run_wallet": float(DEFAULT_BALANCE), **config})))


def _api_server(port: int | None) -> dict[str, Any] | None:
    if port is None:
        return None
    return {
        "enabled": True,
        "listen_ip_address": "127.0.0.1",
        "listen_port": port,
        "verbosity": "error",
        "jwt_secret_key": secrets.token_hex(),
        "ws_token": secrets.token_urlsafe(),
        "CORS_origins": [],
        "username": "freqtrader",
        "password": secrets.token_urlsafe(12),
    }


@contextmanager
def _progress(console: Console, clock: SimulatedClock, start: datetime, stop: datetime) -> Iterator[Any]:
    """Show how far a clock has come: a bar on a terminal, else a line now and then."""
    length = (stop - start).total_seconds()
    began = time.monotonic()
    said = began

    def status() -> tuple[float, str]:
        now = clock.now()
        done = (now - start).total_seconds()
        elapsed = time.monotonic() - began
        left = f"{_span(elapsed * (length - done) / done)} left" if done > 0 else "the bot starts"
        return done, f"{now:%Y-%m-%d %H:%M} UTC, {done / 3600:.1f} of {length / 3600:g} h, {left}"

    if console.is_terminal:
        columns = (BarColumn(bar_width=20), TextColumn("{task.description}", table_column=Column(no_wrap=True)))
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=length)

            def draw() -> None:
                done, text = status()
                bar.update(task, completed=done, description=text)

            yield draw
    else:

        def say() -> None:
            nonlocal said
            if time.monotonic() - said >= LINE_SECONDS:
                said = time.monotonic()
                console.out(status()[1])

        yield say


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _end(bot: StagedBot) -> int:
    try:
        return bot.stop()
    except KeyboardInterrupt:
        bot.kill()
        return bot.process.wait()


def _announce(
    console: Console,
    request: DryRunRequest,
    market: Path,
    start: datetime,
    stop: datetime,
    stage: Stage,
    ui: dict[str, Any] | None,
) -> None:
    if request.datadir is None:
        told = f"a synthetic market (seed {request.seed}); its trends are built in: a profit here says nothing"
    else:
        told = f"the candles in {market}"
    pace = "as fast as this machine" if request.speed is None else f"{request.speed} times true time"
    lines = [
        f"market  {told}",
        f"pairs   {', '.join(request.pairs)}",
        f"time    {start:%Y-%m-%d %H:%M} to {stop:%Y-%m-%d %H:%M} UTC, {pace}",
        f"log     {stage.home.log}",
    ]
    if request.is_live:
        account = stage.account
        lines.insert(1, f"money   {account.start_balance:,.2f} {account.asset}, simulated: no real key, no real order")
    if ui:
        address = f"http://{ui['listen_ip_address']}:{ui['listen_port']}"
        lines.append(f"FreqUI  {address}, user {ui['username']}, password {ui['password']}")
    title = f"{COMMAND}: live mode with simulated money" if request.is_live else COMMAND
    console.print(Panel(escape("\n".join(lines)), title=title))


def _conclude(console: Console, stage: Stage, summary: BotSummary, simulated: timedelta, seconds: float) -> None:
    hours = simulated.total_seconds() / 3600
    title = f"{hours:.1f} simulated hours in {_span(seconds)}"
    home = stage.home
    console.print(summary.table(title, stage.faults.served))
    if home.is_live:
        check = stage.check_account()
        console.print(check.table(stage.account.asset))
        for difference in check.differences or ("in nothing",):
            console.out(f"differs    {difference}")
    console.out(f"database   {home.database}")
    console.out(f"log        {home.log}")
    console.out(f"decisions  {home.decisions}")
    if stage.faults.served:
        console.out(f"faults     {home.faults}")
    if not home.is_live:
        console.out(f"go on      the same command with --userdir {home.folder}, without --from")
