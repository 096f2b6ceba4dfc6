"""A stage for bots: a user directory, a replay exchange and a simulated clock that all of them share.

A bot is ``freqtrade trade`` in a process of its own. It may be stopped or killed and another started in the same
directory; clock and exchange go on.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from freqtrade.configuration.load_config import load_from_files

from mtfscalper.offline import ReplayError
from mtfscalper.offline.account import DEFAULT_BALANCE, SimulatedAccount
from mtfscalper.offline.account_check import AccountCheck
from mtfscalper.offline.binance import ReplayMarket
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.faults import Faults, Rule
from mtfscalper.offline.freqtrade_command import Option, freqtrade_command, stop_process, write_overlay
from mtfscalper.offline.simulated_clock import CLOCK_VARIABLE, SimulatedClock
from mtfscalper.offline.simulated_money import PLACEHOLDERS, check_simulated

BOT_PROGRAM = "mtfscalper.offline.bot"
# How often who waits for a moment of the clock looks.
LOOK_SECONDS = 0.05
# A training is given up within an update.
STOP_SECONDS = 120
# Sections of the configuration by which a bot speaks to others.
_MESSENGERS = ("telegram", "webhook", "discord", "api_server", "external_message_consumer")


class StageHome:
    """The user directory of a stage, and what its bots leave in it."""

    def __init__(self, folder: Path, is_live: bool = False) -> None:
        """
        :param is_live: whether its bots trade in freqtrade's live mode, with simulated money
        """
        self.folder, self.is_live = folder, is_live
        self.clock = folder / "simulated_clock"
        self.log = folder / "logs" / "bot.log"
        self.database = folder / ("tradesv3.simulated_money.sqlite" if is_live else "tradesv3.dryrun.sqlite")
        self.datadir = folder / "data"
        self.overlay = folder / "stage.json"
        self.pid = folder / "bot.pid"
        self.faults = folder / "logs" / "faults.jsonl"

    @property
    def decisions(self) -> Path:
        """The folder of the record of decisions."""
        return self.folder / "decisions"

    def make(self) -> None:
        """Make the folders that freqtrade expects."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.datadir.mkdir(exist_ok=True)


class Stage:
    """A user directory, an exchange and a clock, for as long as a ``with`` block lasts.

    :ivar clock: shared with every bot
    :ivar exchange: what the bots trade on
    :ivar faults: what goes wrong on it
    :ivar account: the simulated money on it; bots of a dry run have none of it
    """

    def __init__(
        self,
        home: StageHome,
        market: Path,
        start: datetime,
        speed: int | None,
        rules: tuple[Rule, ...] = (),
        seed: int = 0,
        port: int = 0,
        balance: Decimal = DEFAULT_BALANCE,
    ) -> None:
        """
        :param home: taken as it is found: an earlier run's trades, models and candles are the bot's own
        :param market: freqtrade data directory that is replayed
        :param start: what the clock shows at first, with a timezone
        :param speed: times true time; None is as fast as the bot is, in lockstep
        :param rules: of the faults that the exchange serves
        :param seed: of these faults
        :param port: of the exchange on the loopback address; 0 takes a free one
        :param balance: of the account with simulated money
        :raises ReplayError: when the directory or the port cannot be served
        """
        home.make()
        self.home, self._market = home, market
        self.clock = SimulatedClock.create(home.clock, start, speed)
        self.faults = Faults(rules, seed, home.faults)
        self.account = SimulatedAccount(balance)
        self.exchange = ReplayExchange(
            market,
            port,
            clock=self.clock.now,
            faults=self.faults,
            let_pass=self.clock.let_pass,
            account=self.account,
        )

    def __enter__(self) -> Self:
        self.exchange.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.exchange.stop()

    def write_config(self, configs: Sequence[Path], pairs: Sequence[str], sections: dict[str, Any]) -> Path:
        """Write the last configuration file of a bot: the exchange's address, and what must not differ on a stage.

        Whatever the files before it say, no bot on a stage sends a message or listens beyond the loopback address.

        :param configs: the files before it
        :param pairs: to trade
        :param sections: further parts, by key
        :raises ReplayError: when a live bot could reach anything but this stage by them
        """
        sections = dict(sections)
        for name in set(load_from_files([str(config) for config in configs])).intersection(_MESSENGERS):
            sections.setdefault(name, {"enabled": False})
        path = write_overlay(self.home.overlay, self.exchange.url, sections)
        config = json.loads(path.read_text(encoding="utf-8"))
        config["user_data_dir"] = str(self.home.folder)
        config["exchange"]["pair_whitelist"] = list(pairs)
        # ccxt counts its limit in true time, of which a simulated bot has little.
        config["exchange"]["ccxt_config"]["enableRateLimit"] = False
        config["dry_run"] = not self.home.is_live
        if self.home.is_live:
            config["exchange"] |= PLACEHOLDERS
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")
        if self.home.is_live:
            check_simulated([*configs, path])
        return path

    def check_account(self) -> AccountCheck:
        """Compare the account with the database of a live bot that has ended."""
        market = ReplayMarket.from_store(CandleStore(self._market), self.clock.now())
        self.account.advance(market)
        return AccountCheck.of(self.home.database, self.account, market.pairs)

    def command(self, configs: Sequence[Path], **options: Option) -> list[str]:
        """Build the command line of a bot.

        :param configs: configuration files, the one of :meth:`write_config` last
        :param options: further options of ``freqtrade trade``
        """
        arguments: dict[str, Any] = {
            "userdir": self.home.folder,
            "datadir": self.home.datadir,
            "db_url": f"sqlite:///{self.home.database}",
            "no_color": True,
            **options,
        }
        if not self.home.is_live:
            arguments["dry_run"] = True
        return freqtrade_command("trade", configs, program=BOT_PROGRAM, **arguments)

    def start_bot(self, command: Sequence[str], cwd: Path, environment: dict[str, str] | None = None) -> "StagedBot":
        """Start a bot.

        :param command: as :meth:`command` builds it
        :param cwd: its working directory
        :param environment: what is added to its environment
        :raises ReplayError: when a bot lives in this directory that does not end
        """
        self._await_end_of_orphan()
        own = {CLOCK_VARIABLE: str(self.home.clock), "TZ": "UTC", "COLUMNS": "1000"}
        bot = StagedBot(self.clock, command, cwd, self.home.log, os.environ | own | (environment or {}))
        with suppress(psutil.NoSuchProcess):
            # Its number alone would be another process's one day.
            began = psutil.Process(bot.process.pid).create_time()
            self.home.pid.write_text(json.dumps([bot.process.pid, began]), encoding="utf-8")
        return bot

    def _await_end_of_orphan(self) -> None:
        """Wait for a bot whose stage was killed: it ends by itself, but takes its time."""
        try:
            pid, began = json.loads(self.home.pid.read_text(encoding="utf-8"))
            orphan = psutil.Process(pid)
            is_ours = orphan.create_time() == began
        except (OSError, ValueError, TypeError, psutil.Error):
            return
        if is_ours:
            try:
                orphan.wait(STOP_SECONDS)
            except psutil.TimeoutExpired as error:
                raise ReplayError(
                    f"dry run: the bot with pid {orphan.pid} lives in {self.home.folder} still; end it, or choose "
                    "another user directory"
                ) from error


class StagedBot:
    """A bot that runs, the leader of a process group of its own: Ctrl-C in a terminal does not reach it."""

    def __init__(
        self, clock: SimulatedClock, command: Sequence[str], cwd: Path, log: Path, environment: dict[str, str]
    ) -> None:
        self._clock, self._log = clock, log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run_until(self, moment: datetime, look: Callable[[], None] = lambda: None) -> bool:
        """Let the clock go on to a moment, and wait for it.

        :param look: called now and then meanwhile
        :return: False where the bot has ended before
        """
        self._clock.run_until(moment)
        while self.process.poll() is None:
            look()
            if self._clock.is_at_limit:
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def stop(self) -> int:
        """End it as Ctrl-C does; kill it where that does not help.

        :return: its exit status
        """
        if os.name == "nt":
            stop_process(self.process)
        elif self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """End it and its worker processes at once, as a power cut does."""
        if os.name == "nt":
            self.process.kill()
        else:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
