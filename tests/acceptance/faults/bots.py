"""Dry-run bots of the freqtrade command, whose clock the test sets forward from candle to candle."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from faults.homes import CONFIG, IDENTIFIER, PAIR, USER_CODE, Ended, Home, Started
from faults.warm import HERE, ROOT

from mtfscalper.freqai.columns import PREDICTION_COLUMNS
from mtfscalper.freqai.health import HEALTH_NAME
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import FREQAI_MODEL, freqtrade_command

CLOCK = HERE.parent / "clock"
FIVE_MINUTES = timedelta(minutes=5)
FIRST_START = datetime(2024, 9, 8, 12, 0, 30, tzinfo=UTC)
SECOND_START = FIRST_START + 2 * FIVE_MINUTES
DONE_TRAINING = "Done training"
# freqtrade's exit status after Ctrl-C.
INTERRUPTED = 130
LONGEST_SECONDS = 120


class Clock:
    """A time that passes as time does, and is set forward.

    :ivar environment: what a process needs that goes by it
    """

    def __init__(self, start: datetime, file: Path) -> None:
        self._start, self._file = start, file
        self._true_start = time.monotonic_ns()
        self._set_on = timedelta()
        file.write_bytes(struct.pack("q", 0))
        self.environment = {
            "FAULTS_CLOCK": f"{int(start.timestamp()) * 10**9} {self._true_start}",
            "FAULTS_CLOCK_SET_ON": str(file),
        }

    def now(self) -> datetime:
        """What it shows."""
        return self._start + timedelta(microseconds=(time.monotonic_ns() - self._true_start) // 1000) + self._set_on

    def next_candle(self, n: int = 1) -> None:
        """Set it on by candles."""
        self._set_on += n * FIVE_MINUTES
        with self._file.open("rb+") as file:
            file.write(struct.pack("q", self._set_on // timedelta(microseconds=1) * 1000))


class Bot:
    """A bot that runs."""

    def __init__(self, process: Started, clock: Clock, frames: Path, hold: Path, health: Path) -> None:
        """
        :param frames: the folder into which it writes what its analyses make
        :param hold: while that file is there it stays where it sleeps
        :param health: its file
        """
        self.process, self.clock, self._frames, self._hold, self._health = process, clock, frames, hold, health
        self._seen: set[Path] = set()
        self._has_decided = False

    def next_frame(self) -> pd.DataFrame:
        """What the next analysis makes of the candles."""
        self.wait_for(lambda: bool(self._new_frames()))
        frame = self._new_frames()[0]
        self._seen.add(frame)
        return pd.read_feather(frame)

    def _new_frames(self) -> list[Path]:
        return sorted(set(self._frames.glob("*.feather")) - self._seen)

    def decide(self, n_candles: int) -> dict[str, list[float]]:
        """The policy's columns of the last candle of an analysis, by the candle, once there is a policy.

        :param n_candles: of that many candles, the next ones to close
        """
        decided: dict[str, list[float]] = {}
        for _ in range(n_candles + 5):
            if self._seen:
                if not self._has_decided:
                    self._await_training()
                self.clock.next_candle()
            last = self.next_frame().iloc[-1]
            if last["do_predict"] == 1:
                self._has_decided = True
                decided[str(last["date"])] = [float(last[name]) for name in PREDICTION_COLUMNS]
            if len(decided) == n_candles:
                return decided
        raise AssertionError(f"no policy decides: {self.process.output}")

    def stop(self) -> Ended:
        """End it as Ctrl-C does, between two looks at the market: SQLAlchemy minds an interrupted commit."""
        self._hold.touch()
        self.wait_for(self._hold.with_suffix(".held").exists)
        os.killpg(self.process.process.pid, signal.SIGINT)
        return self.process.end()

    def await_output(self, text: str, times: int = 1) -> None:
        """Wait until it has printed something so many times."""
        self.wait_for(lambda: self.process.output.count(text) >= times)

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened while it runs."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not happened():
            assert self.process.process.poll() is None, self.process.output
            assert time.monotonic() < deadline, self.process.output
            time.sleep(0.05)

    def _await_training(self) -> None:
        self.await_output(DONE_TRAINING)
        # Then it is saved, and put into use.
        self.wait_for(self._has_trained)

    def _has_trained(self) -> bool:
        health = json.loads(self._health.read_text()) if self._health.exists() else {"pairs": {}}
        pair = health["pairs"].get(PAIR)
        # An earlier bot has left one too.
        is_its = pair is not None and health["process"]["pid"] == self.process.process.pid
        return is_its and pair["ended_at"] > 0 and pair["training_since"] == 0


@contextmanager
def running_bot(
    home: Home,
    start: datetime,
    freqai: Mapping[str, Any] | None = None,
    database: Path | None = None,
    configs: Sequence[Path] = (),
    **sections: Any,
) -> Iterator[Bot]:
    """A bot beside an exchange that goes by its clock.

    :param start: what the clock shows at first
    :param freqai: settings of FreqAI's that differ, those of its ``rl_config`` one by one
    :param database: of its trades; a new one by default
    :param configs: further config files, which come last
    :param sections: further sections of its config
    """
    frames = home.new("frames")
    frames.mkdir()
    (home.folder / "bot_data").mkdir(exist_ok=True)
    clock = Clock(start, home.new("clock"))
    with ReplayExchange(home.market, clock=clock.now) as exchange:
        # A policy that decides about signals alone has nothing to say about most candles.
        asked = dict(freqai or {})
        asked["rl_config"] = {"entry_mode": "agent", **asked.get("rl_config", {})}
        overlay = home.overlay(asked, url=exchange.url, internals={"process_throttle_secs": 1}, **sections)
        command = freqtrade_command(
            "trade",
            [CONFIG, overlay, *configs],
            userdir=home.user,
            datadir=home.folder / "bot_data",
            dry_run=True,
            db_url=f"sqlite:///{database or home.new('sqlite')}",
            strategy="WaitingStrategy",
            strategy_path=USER_CODE,
            freqaimodel=FREQAI_MODEL,
            freqaimodel_path=ROOT / "user_data" / "freqaimodels",
        )
        hold = home.new("hold")
        environment = clock.environment | {"FAULTS_FRAMES": str(frames), "FAULTS_HOLD": str(hold), "TZ": "UTC"}
        health = home.user / "models" / asked.get("identifier", IDENTIFIER) / HEALTH_NAME
        with Started(command, home.new("log"), environment, imported=[CLOCK]) as process:
            yield Bot(process, clock, frames, hold, health)
