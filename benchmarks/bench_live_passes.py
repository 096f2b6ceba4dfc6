"""How long a bot's pass over its pairs takes while it trains, in a thread of its own and in a process.

    python benchmarks/bench_live_passes.py [--passes N] [--net tiny|mission]

A dry-run bot in this process analyses a new candle of two pairs again and again, as ``freqtrade trade`` does every five
minutes: idle, beside a training in its own process, and beside one in a process of low priority, in turn. The candles
of the exchange lie in memory, so that nothing is waited for.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "freqai"))

from freqai_runs import OTHER_PAIR, PAIR
from freqtrade.enums import CandleType
from live_bot import LENGTHS, MOST_CANDLES, LiveBot

from mtfscalper.executors.choice import bots_executor
from mtfscalper.executors.executor import run_all
from mtfscalper.freqai.traded_strategy import TradedStrategy
from mtfscalper.offline.synthetic import write_market
from mtfscalper.training.job import TrainingStoppedError

ROUNDS = 5
# Networks and environments, as keys of rl_config beside those of the tests.
NETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "mission": {
        "net_arch": [512, 512, 256],
        "n_envs": 8,
        # Short rollouts, so that passes meet both rollouts and updates.
        "n_steps": 256,
        "batch_size": 256,
        "n_epochs": 10,
        "vec_env": "subproc",
        "cpu_count": 8,
        "interop_threads": 2,
    },
}


class TwoPairBot(LiveBot):
    """Passes over two pairs."""

    def __init__(self, home: Path, market: Path, patch: pytest.MonkeyPatch, rl: dict[str, Any]) -> None:
        self._other = {
            timeframe: pd.read_feather(market / "futures" / f"ETH_USDT_USDT-{timeframe}-futures.feather")
            for timeframe in LENGTHS
        }
        pairs = {"pair_whitelist": [PAIR, OTHER_PAIR]}
        self.jobs: list[Any] = []
        super().__init__(home, market, patch, exchange=pairs, freqai={"rl_config": rl})

    def both(self) -> float:
        """Pass over both pairs.

        :return: seconds that it took
        """
        for timeframe, candles in self._other.items():
            closed = candles[candles["date"] + LENGTHS[timeframe] <= self.now].tail(MOST_CANDLES)
            self.exchange._klines[(OTHER_PAIR, timeframe, CandleType.FUTURES)] = closed.reset_index(drop=True)
        with self.clock():
            began = time.perf_counter()
            self.analyse()
            metadata = {"pair": OTHER_PAIR}
            frame = self.exchange._klines[(OTHER_PAIR, "5m", CandleType.FUTURES)].copy()
            self.strategy.ft_advise_signals(self.strategy.advise_indicators(frame, metadata), metadata)
            return time.perf_counter() - began

    def passes(self, n: int) -> list[float]:
        """Seconds of passes over new candles."""
        taken = []
        for _ in range(n):
            self.next_candle()
            taken.append(self.both())
            time.sleep(0.1)
        return taken

    def beside_a_training(self, where: str, n: int) -> list[float]:
        """The same beside a training that goes on all the while."""
        job = self.jobs[0]
        rl = job.settings.rl.model_copy(update={"live_training": where, "train_cycles": 10**6})
        settings = job.settings.model_copy(update={"rl": rl})
        stop, began = threading.Event(), threading.Event()

        def check() -> None:
            if stop.is_set():
                raise TrainingStoppedError

        def mark(_: object) -> None:
            began.set()
            check()

        executor = bots_executor(settings, check)
        thread = threading.Thread(target=run_all, args=(executor, [replace(job, settings=settings)], mark))
        thread.start()
        began.wait()
        try:
            return self.passes(n)
        finally:
            stop.set()
            thread.join()


def main() -> None:
    """Print the medians and the 95th percentiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=12, help="of each kind in each of five rounds")
    parser.add_argument("--net", choices=NETS, help="default: one after the other")
    args = parser.parse_args()
    n = args.passes
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        market = Path(folder) / "market"
        start, stop = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 12, tzinfo=UTC)
        write_market(market, start=start, stop=stop, pairs=(PAIR, OTHER_PAIR))
        for name in [args.net] if args.net else NETS:
            with pytest.MonkeyPatch.context() as patch:
                measure(name, NETS[name], Path(folder) / name, market, patch, n)


def measure(name: str, rl: dict[str, Any], home: Path, market: Path, patch: pytest.MonkeyPatch, n: int) -> None:
    """Measure with one network."""
    home.mkdir()
    bot = TwoPairBot(home, market, patch, rl)
    bot.jobs = jobs_noted(bot, patch)
    bot.both()
    # A short training gives both pairs the network that is measured.
    for pair in (PAIR, OTHER_PAIR):
        with bot.clock():
            bot.model._trainings._train_if_due(pair, bot.strategy)
    bot.passes(3)
    taken: dict[str, list[float]] = {"idle": [], "thread": [], "process": []}
    for _ in range(ROUNDS):
        taken["idle"] += bot.passes(n)
        for where in ("thread", "process"):
            taken[where] += bot.beside_a_training(where, n)
        show(f"{name}, {len(taken['idle'])} passes of each kind", taken)


def show(title: str, taken: dict[str, list[float]]) -> None:
    """Print what passes took so far."""
    print(title)
    idle = np.percentile(taken["idle"], 95)
    for kind, seconds in taken.items():
        median, p95 = np.percentile(seconds, [50, 95])
        print(f"  {kind:8} median {1000 * median:6.0f} ms   p95 {1000 * p95:6.0f} ms   {p95 / idle:5.2f} x idle")
    sys.stdout.flush()


def jobs_noted(bot: TwoPairBot, patch: pytest.MonkeyPatch) -> list[Any]:
    """Fills with the jobs of the bot's trainings."""
    jobs: list[Any] = []
    real = TradedStrategy.job

    def job(*arguments: Any, **keywords: Any) -> Any:
        jobs.append(real(*arguments, **keywords))
        return jobs[-1]

    patch.setattr(TradedStrategy, "job", job)
    return jobs


if __name__ == "__main__":
    main()
