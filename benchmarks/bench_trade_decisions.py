"""What decisions cost: about an open trade, of a flat account, and as a share of a year's backtest with four pairs.

The query about a trade is timed beside a whole forward of the same policy and beside the copy of a trade that freqtrade
makes for every call of a strategy's callback; both kinds of decision once with one policy and once with an ensemble of
eight, whose ratio is reported. The backtest is freqtrade's own, on the synthetic market, with hardly trained
policies of the main configuration's network: their decisions are worth nothing, and cost what any others do.

    python benchmarks/bench_trade_decisions.py --json bench_trade_decisions.json
"""

import argparse
import cProfile
import json
import platform
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from freqtrade.configuration import Configuration
from freqtrade.enums import RunMode
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.persistence import LocalTrade
from gymnasium import spaces
from rich.console import Console
from rich.table import Table

from mtfscalper.envs.trading_env import observation_space
from mtfscalper.freqai.decision_record import DecisionRecord, Question
from mtfscalper.freqai.exit_policy import PREPARED_CANDLES
from mtfscalper.machine import usable_processors
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import freqtrade_command, offline_config, project_options
from mtfscalper.offline.synthetic import write_market
from mtfscalper.policy.ensemble import EnsemblePolicy, members_of
from mtfscalper.policy.inference import FastTradeDecider, PolicyDecider, WholeTradeDecider, actors_of
from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy
from mtfscalper.strategy import TradeDecisions
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.trading.observation import N_ACCOUNT, Observation

ROOT = Path(__file__).parents[1]
NET_ARCH = [512, 512, 256]
N_FEATURES = 54
N_CANDLES = 2016
LOOKBACKS = (1, 30)
ENSEMBLES = (1, 8)
PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT")
YEAR = "20231101-20241101"
# Before a timerange lie the days of training and of the slowest indicator.
DAYS_BEFORE = 62
TRAINING = {"train_cycles": 1, "n_steps": 256, "n_epochs": 1, "vec_env": "batched", "progress_bar": False}


def timings(ask: Callable[[int], Any], n: int = 2000) -> list[float]:
    """Microseconds of each of n calls."""
    seconds = []
    for index in range(n):
        started = time.perf_counter()
        ask(index)
        seconds.append(time.perf_counter() - started)
    return (1e6 * np.array(seconds)).tolist()


def policy_of(lookback: int, ensemble: int) -> MaskedActorCriticPolicy | EnsemblePolicy:
    kind, more = (MaskedActorCriticPolicy, {}) if ensemble == 1 else (EnsemblePolicy, {"n_members": ensemble})
    policy = kind(
        observation_space(),
        spaces.Discrete(N_ACTIONS),
        lambda _: 3e-4,
        net_arch=NET_ARCH,
        activation_fn=torch.nn.ReLU,
        features_extractor_class=LookbackExtractor,
        features_extractor_kwargs={"n_features": N_FEATURES, "lookback": lookback},
        **more,
    )
    with torch.no_grad():
        for member in members_of(policy):
            # As after training: an untrained policy is of two minds everywhere, and near ties are worked out twice.
            member.action_net.weight.mul_(3.0 / member.action_net.weight.norm(dim=1, keepdim=True))
    return policy


def a_trade() -> LocalTrade:
    opened = datetime(2024, 10, 1, tzinfo=UTC)
    values = {"pair": PAIRS[0], "stake_amount": 100.0, "amount": 0.1, "open_rate": 1000.0, "open_date": opened}
    return LocalTrade(id=1, **values, fee_open=0.0005, fee_close=0.0005, exchange="binance", leverage=1.0)


def query_table(console: Console) -> dict[str, float]:
    """Medians of single questions, in microseconds."""
    features = np.random.default_rng(0).normal(size=(N_CANDLES, N_FEATURES)).astype(np.float32)
    asked = [Observation(row, 1.0, 0.3, 0.5, 0.1, 0.0, 0.0) for row in range(30, 1930)]
    trade = a_trade()
    contenders: dict[str, Callable[[int], Any]] = {"freqtrade's copy of a trade": lambda _: deepcopy(trade)}
    for lookback, ensemble in product(LOOKBACKS, ENSEMBLES):
        policy, of = policy_of(lookback, ensemble), f"lookback {lookback}, ensemble {ensemble}"
        query = FastTradeDecider(actors_of(policy), features, lookback)
        whole = WholeTradeDecider(PolicyDecider(policy, features))
        contenders[f"query, {of}"] = lambda index, query=query: query.decide([asked[index % 1900]])
        # As a backtest prepares the answers of a trade.
        contenders[f"query among {PREPARED_CANDLES}, {of}"] = lambda index, query=query: query.decide(
            asked[index % 1800 : index % 1800 + PREPARED_CANDLES]
        )
        contenders[f"whole forward, {of}"] = lambda index, whole=whole: whole.decide([asked[index % 1900]])
    figures = {}
    table = Table(title=f"one decision about an open trade, net_arch {NET_ARCH}, {N_FEATURES} features")
    for column in ("", "median", "10 %", "90 %"):
        table.add_column(column, justify="right" if column else "left")
    for name, ask in contenders.items():
        timings(ask, 100)
        each = np.array(timings(ask)) / (PREPARED_CANDLES if "among" in name else 1)
        tenth, median, ninetieth = np.percentile(each, [10, 50, 90])
        figures[name] = float(median)
        table.add_row(name, f"{median:.0f} us", f"{tenth:.0f} us", f"{ninetieth:.0f} us")
    figures["row of the record"] = record_us()
    table.add_row("a row of the record, files included", f"{figures['row of the record']:.1f} us", "", "")
    console.print(table)
    return figures


def flat_table(console: Console) -> dict[str, float]:
    """Medians of flat decisions on a period's candles at once, in microseconds a candle."""
    features = np.random.default_rng(0).normal(size=(N_CANDLES, N_FEATURES)).astype(np.float32)
    asked = np.zeros((N_CANDLES, 1 + N_ACCOUNT), dtype=np.float32)
    asked[:, 0] = np.arange(N_CANDLES)
    figures = {}
    table = Table(title=f"flat decisions on {N_CANDLES} candles, net_arch {NET_ARCH}, {N_FEATURES} features")
    for column in ("", "median a candle", "10 %", "90 %"):
        table.add_column(column, justify="right" if column else "left")
    for lookback, ensemble in product(LOOKBACKS, ENSEMBLES):
        decider = PolicyDecider(policy_of(lookback, ensemble), features)
        timings(lambda _, decider=decider: decider.decide(asked), 2)
        each = np.array(timings(lambda _, decider=decider: decider.decide(asked), 15)) / N_CANDLES
        tenth, median, ninetieth = np.percentile(each, [10, 50, 90])
        name = f"flat, lookback {lookback}, ensemble {ensemble}"
        figures[name] = float(median)
        table.add_row(name, f"{median:.1f} us", f"{tenth:.1f} us", f"{ninetieth:.1f} us")
    console.print(table)
    return figures


def ensemble_ratios(console: Console, figures: dict[str, float]) -> dict[str, float]:
    """What an ensemble costs, as a multiple of one policy.

    :param figures: of both, in one unit
    """
    one, many = (f", ensemble {n}" for n in ENSEMBLES)
    names = [name.removesuffix(many) for name in figures if name.endswith(many)]
    ratios = {name: figures[name + many] / figures[name + one] for name in names}
    for name, ratio in ratios.items():
        console.print(f"{name}: an ensemble of {ENSEMBLES[-1]} takes {ratio:.1f} times as long as one policy")
    return ratios


def record_us(n: int = 200_000) -> float:
    """Microseconds of a row of the record of decisions, the mean of as many as a long backtest has."""
    with tempfile.TemporaryDirectory() as scratch:
        record = DecisionRecord(Path(scratch), "backtest", "bench")
        started = time.perf_counter()
        for row in range(n):
            asked = Question(PAIRS[0], row * 300_000, 0, "long", 0.01, 0.02, row % 96, 0.25, leave=False)
            record.add(asked, n * 300_000)
        record.close()
        return 1e6 * (time.perf_counter() - started) / n


class Span(NamedTuple):
    """What is backtested."""

    pairs: tuple[str, ...]
    timerange: str
    rl_config: dict[str, Any]

    @property
    def market(self) -> dict[str, datetime]:
        """Of the synthetic market."""
        start, stop = (datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) for day in self.timerange.split("-"))
        return {"start": start - timedelta(days=DAYS_BEFORE), "stop": stop}


def long_backtest(scratch: Path, url: str, span: Span) -> tuple[Backtesting, dict[str, Any]]:
    """A backtest that is ready to trade: candles loaded, policies trained or found, columns predicted."""
    freqai = {
        "identifier": "year",
        "backtest_period_days": 30,
        "activate_tensorboard": False,
        "rl_config": span.rl_config,
    }
    overlay = offline_config(url) | {"user_data_dir": str(scratch / "user"), "freqai": freqai}
    overlay |= {"max_open_trades": len(span.pairs)}
    overlay["exchange"]["pair_whitelist"] = list(span.pairs)
    (scratch / "overlay.json").write_text(json.dumps(overlay))
    arguments = {
        "config": [str(ROOT / "configs" / "config_rl_hybrid.json"), str(scratch / "overlay.json")],
        "datadir": str(scratch / "data"),
        "timerange": span.timerange,
        **project_options(ROOT),
    }
    backtesting = Backtesting(Configuration(arguments, RunMode.BACKTEST).get_config())
    candles, backtesting.timerange = backtesting.load_bt_data()
    [strategy] = backtesting.strategylist
    backtesting._set_strategy(strategy)
    return backtesting, strategy.advise_all_indicators(candles)


def command_of(scratch: Path, span: Span) -> list[str]:
    """The freqtrade command of the same backtest."""
    return freqtrade_command(
        "backtesting",
        [ROOT / "configs" / "config_rl_hybrid.json", scratch / "overlay.json"],
        timerange=span.timerange,
        userdir=scratch / "user",
        datadir=scratch / "data",
        **project_options(ROOT),
    )


def trade_the_span(scratch: Path, console: Console, span: Span) -> dict[str, float]:
    """Seconds of a backtest that finds its policies on disk, and of what is ours in it."""
    write_market(scratch / "data", pairs=span.pairs, **span.market)
    (scratch / "user" / "backtest_results").mkdir(parents=True)
    spent = {"decide": 0.0, "calls": 0, "record": 0.0, "custom_data": 0.0}

    @contextmanager
    def clocked() -> Iterator[None]:
        """Add up what is ours in a backtest."""
        parts = [(TradeDecisions, "decide", "decide"), (TradeDecisions, "note_exit", "custom_data")]
        # Of the record: its rows, which decide() notes, and the look at every candle whether it is due.
        parts += [(DecisionRecord, "add", "record"), (TradeDecisions, "at_loop", "record")]
        reals = {name: getattr(owner, name) for owner, name, _ in parts}

        def clock(real: Callable[..., Any], part: str) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                started = time.perf_counter()
                try:
                    return real(*arguments)
                finally:
                    spent[part] += time.perf_counter() - started
                    spent["calls"] += part == "decide"

            return call

        for owner, name, part in parts:
            setattr(owner, name, clock(reals[name], part))
        try:
            yield
        finally:
            for owner, name, _ in parts:
                setattr(owner, name, reals[name])

    with ReplayExchange(scratch / "data") as exchange:
        with console.status("training a policy for every month and pair"):
            long_backtest(scratch, exchange.url, span)
            Backtesting.cleanup()
        started = time.perf_counter()
        subprocess.run(
            command_of(scratch, span), cwd=scratch, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        whole = time.perf_counter() - started
        backtesting, frames = long_backtest(scratch, exchange.url, span)
        prepared = time.perf_counter()

    def trade() -> int:
        start, stop = backtesting.timerange.startdt, backtesting.timerange.stopdt
        processed = {pair: frame[frame["date"] >= start].reset_index(drop=True) for pair, frame in frames.items()}
        return len(backtesting.backtest(processed, start, stop)["results"])

    with clocked():
        n_trades = trade()
    traded = time.perf_counter()
    figures = {
        "command_seconds": whole,
        "trade_seconds": traded - prepared,
        "trades": n_trades,
        "share_of_trading": spent["decide"] / (traded - prepared),
        "share_of_command": spent["decide"] / whole,
        **spent,
    }
    table = Table(title=f"a backtest of {span.timerange} with {len(span.pairs)} pairs, policies on disk")
    for column in ("", "seconds", "share"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in (
        ("freqtrade backtesting, start to end", whole),
        (f"trading: {n_trades} trades", figures["trade_seconds"]),
        (f"of which {spent['calls']:,} questions", spent["decide"]),
        ("of which the record of them", spent["record"]),
        ("the exits' probabilities in the trades' custom data", spent["custom_data"]),
    ):
        table.add_row(name, f"{seconds:.2f}", f"{100 * seconds / whole:.2f} %")
    console.print(table)
    console.print(f"{1e6 * spent['decide'] / max(spent['calls'], 1):.0f} us a question, loading policies included")
    profile = cProfile.Profile()
    profile.runcall(trade)
    console.print("profile of the trading (a profiler makes every call dearer), by own time:")
    pstats.Stats(profile, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(18)
    return figures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="of the backtest (default %(default)s)")
    parser.add_argument("--timerange", default=YEAR, help="of the backtest (default %(default)s)")
    parser.add_argument("--rl-config", type=json.loads, default={}, help="JSON over the backtest's freqai.rl_config")
    parser.add_argument("--no-backtest", action="store_true", help="time single queries alone")
    default = Path(tempfile.gettempdir(), "bench_trade_decisions.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    console = Console()
    facts: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {usable_processors()} processors",
        "query_us": query_table(console),
        "flat_us": flat_table(console),
    }
    facts["ensemble_ratio"] = ensemble_ratios(console, facts["query_us"] | facts["flat_us"])
    if not options.no_backtest:
        with tempfile.TemporaryDirectory() as scratch:
            span = Span(PAIRS[: options.pairs], options.timerange, TRAINING | options.rl_config)
            facts["backtest"] = trade_the_span(Path(scratch), console, span)
    options.json.write_text(json.dumps(facts, indent=1))
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
