"""Markets, rules and settings at the edges of what freqtrade takes: its trades are ours, or it is said where not.

Rates of 1e-8 and 5e5, candles of one rate, crashes, ROI tables with odd keys, fees of 9.9 %, leverages of 125.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import candle_table, make_rules, make_tape
from ccxt import SIGNIFICANT_DIGITS
from parity.backtester import PAIR, STAKE, WALLET, Backtester
from parity.playing import assert_same_trades, play_tape

from mtfscalper.freqai.candles import exchange_price_scale
from mtfscalper.freqai.entry_terms import Asker, Stake
from mtfscalper.freqai.unsimulated import _exit_orders_wait
from mtfscalper.market.tape import price_scale
from mtfscalper.trading.actions import Action
from mtfscalper.trading.trading_rules import TradingRules

N = 150
FIXED: dict[str, Any] = {
    "fixed_stake_ratio": STAKE / WALLET,
    "stake_ratio": 0.99,
    "available_ratio": 0.99,
    "max_drawdown_ratio": 1.0,
}


@pytest.fixture(scope="module")
def backtesters(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Backtester]:
    """By whether the market is a spot one; whole rates move by a quarter."""
    return {spot: Backtester(tmp_path_factory.mktemp("odd"), spot=spot, tick=0.25) for spot in (False, True)}


def odd_candles(rng: np.random.Generator, rate: float) -> pd.DataFrame:
    """Two to seven digits of a rate, in steps of one, two or five of the last."""
    spread = float(rng.choice([0.0005, 0.003, 0.02, 0.1]))
    decimals = max(0, int(rng.integers(2, 8)) - 1 - int(np.floor(np.log10(rate))))
    step = float(rng.choice([1, 1, 2, 5]))
    close = rate * np.exp(np.cumsum(rng.normal(0, spread, N)))
    opens = np.append(rate, close[:-1]) * np.exp(np.where(rng.random(N) < 0.15, rng.normal(0, 3 * spread, N), 0))
    up, down = (abs(rng.normal(0, spread, N)) * (rng.random(N) < 0.7) for _ in range(2))
    high, low = np.maximum(opens, close) * (1 + 0.7 * up), np.minimum(opens, close) * (1 - 0.7 * np.minimum(down, 0.9))
    flat = rng.random(N) < 0.1
    rates = np.stack([opens, *(np.where(flat, opens, other) for other in (high, low, close))], axis=1)
    on_steps = np.round(np.round(rates * 10.0**decimals / step) * step / 10.0**decimals, decimals)
    return candle_table(*np.maximum(on_steps, step * 10.0**-decimals), start="2024-01-31 18:00")


def odd_rules(rng: np.random.Generator, spot: bool) -> TradingRules:
    def leverage() -> float:
        return 1.0 if spot else float(rng.choice([1.0, 2.0, 3.3, 10.0, 50.0, 125.0]))

    # No round ratios: a rate half-way between two steps goes where the noise of the trade's amount puts it.
    ratios = [-1.0, *(ratio + 1e-8 * np.pi for ratio in (0.0, 0.0005, 0.01, 0.1, 100.0, -0.05, -0.5))]
    starts = [0, 0, -5, 3, 5, 7, 10, 30, 61, 1440]
    roi = {int(rng.choice(starts)): float(rng.choice(ratios)) for _ in range(int(rng.integers(0, 5)))}
    trailing: dict[str, Any] = {}
    if rng.random() < 0.6:
        trailing["trailing_stop"] = True
        if rng.random() < 0.6:
            trailing["trailing_stop_positive"] = float(rng.choice([0.0001, 0.005, 0.05, 0.5]))
        if rng.random() < 0.6:
            trailing["trailing_stop_positive_offset"] = float(rng.choice([0.001, 0.01, 0.6]))
            trailing["trailing_only_offset_is_reached"] = bool(rng.random() < 0.5)
    return make_rules(
        fee_ratio=float(rng.choice([0.0, 1e-4, 0.0005, 0.01, 0.099])),
        stoploss_ratio=float(rng.choice([1e-4, 0.001, 0.01, 0.1, 0.35, 0.99, 1.0])),
        max_trade_duration_candles=int(rng.choice([1, 2, 12, 1000])),
        leverage_long=leverage(),
        leverage_short=leverage(),
        minimal_roi=tuple(sorted(roi.items())),
        can_short=not spot,
        **FIXED,
        **trailing,
    )


def with_liquidations(backtester: Backtester, rules: TradingRules) -> TradingRules:
    backtester.use(rules)
    asker = Asker(backtester.strategy, backtester.config, backtester.exchange)
    leverages = {"long": rules.leverage_long, "short": rules.leverage_short}
    found = {
        side: asker._liquidations(PAIR, side, np.array([of]), np.array([STAKE]))[0] for side, of in leverages.items()
    }
    return make_rules(**vars(rules) | {f"liquidation_{side}": float(ratio) for side, ratio in found.items()})


def test_odd_rates_and_rules_give_the_trades_of_freqtrade(backtesters: dict[bool, Backtester]) -> None:
    reasons, rates = Counter[str](), Counter[float]()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rate = float(rng.choice([1e-8, 1e-6, 0.01, 1.0, 123.0, 5e3, 1e5, 5e5]))
        spot = bool(rng.random() < 0.25)
        backtester = backtesters[spot]
        # As fine as freqtrade's decimals of 28 digits can divide.
        backtester.exchange._markets[PAIR]["precision"]["amount"] = 1e-12 if rate > 1e-5 else 1e-4
        candles, rules = odd_candles(rng, rate), odd_rules(rng, spot)
        if not spot:
            rules = with_liquidations(backtester, rules)
        script = np.where(rng.random(N) < rng.uniform(0.1, 0.9), Action.NEUTRAL, rng.integers(0, 5, N))
        script[-1] = Action.NEUTRAL
        expected = backtester.run(candles, rules, script)
        scale = price_scale(candles, exchange_price_scale(backtester.exchange, PAIR, candles["open"].to_numpy()))
        trades, *_ = play_tape(make_tape(candles.assign(price_scale=scale)), rules, script)
        assert_same_trades(trades, expected.trades, rules)
        reasons.update(trade.exit_reason for trade in trades)
        rates[rate] += len(trades)
    assert set(reasons) == {
        *("exit_signal", "max_duration", "stop_loss", "roi", "trailing_stop_loss", "force_exit", "liquidation")
    }
    assert min(rates.values()) > 10
    assert len(rates) == 8


@pytest.mark.parametrize(("precision", "rate"), [(5, 123_450.0), (5, 12_345.0), (6, 5_000.0), (None, 5_000.0)])
def test_whole_rates_keep_the_steps_of_an_exchange_that_counts_digits_or_nothing(
    tmp_path: Path, precision: int | None, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    backtester = Backtester(tmp_path)
    exchange = backtester.exchange
    monkeypatch.setattr(type(exchange), "precision_mode_price", SIGNIFICANT_DIGITS)
    backtester._backtesting.precision_mode_price = SIGNIFICANT_DIGITS
    exchange._markets[PAIR]["precision"]["price"] = precision
    step = 10.0 if rate > 1e5 else 1.0
    rng, n_trades = np.random.default_rng(1), 0
    for _ in range(5):
        walk = rate + step * np.cumsum(rng.integers(-30, 31, N + 1))
        opens, close = walk[:-1], walk[1:]
        wicks = step * rng.integers(0, 30, (2, N))
        high, low = np.maximum(opens, close) + wicks[0], np.minimum(opens, close) - wicks[1]
        candles = candle_table(*np.stack([opens, high, low, close], axis=1))
        rules = make_rules(stoploss_ratio=0.00513, minimal_roi=((0, 0.00417),), trailing_stop=bool(rng.random() < 0.5))
        script = np.where(rng.random(N) < 0.5, Action.LONG_ENTER, Action.SHORT_ENTER)
        script[-1] = Action.NEUTRAL
        expected = backtester.run(candles, rules, script).trades
        scale = price_scale(candles, exchange_price_scale(exchange, PAIR, opens))
        trades, *_ = play_tape(make_tape(candles.assign(price_scale=scale)), rules, script)
        if precision is None:
            # Without steps freqtrade rounds nothing; here to eight decimals.
            trades = [one._replace(profit_ratio=0.0, close_rate=round(one.close_rate, 5)) for one in trades]
            expected = [one._replace(profit_ratio=0.0, close_rate=round(one.close_rate, 5)) for one in expected]
        assert_same_trades(trades, expected, rules)
        n_trades += len(trades)
    assert n_trades > 50


@pytest.mark.parametrize(("minutes", "waits"), [(5, False), (10, True), (None, True)])
def test_an_exit_order_that_waits_for_a_later_candle_is_what_is_named(
    tmp_path: Path, minutes: int | None, waits: bool
) -> None:
    backtester = Backtester(tmp_path)
    trailing = {
        "trailing_stop": True,
        "trailing_stop_positive": 0.005,
        "trailing_stop_positive_offset": 0.01,
        "trailing_only_offset_is_reached": True,
    }
    rules = make_rules(leverage_long=5.0, **trailing)
    backtester.use(rules)
    config = backtester.strategy.config
    config["unfilledtimeout"] = {} if minutes is None else {"exit": minutes, "unit": "minutes"}
    # Ordered at 100.9, above the entry candle: the next candle trades there, and reaches no stop.
    quiet = (100.0, 100.2, 99.8, 100.01)
    rows = [(100.0, 100.4, 100.0, 100.3), (100.85, 100.91, 100.82, 100.9), (100.9, 101.0, 100.95, 100.96), quiet]
    candles = candle_table(quiet, *rows)
    script = np.array([0, Action.LONG_ENTER, 0, 0, 0])
    (theirs,) = backtester.run(candles, rules, script).trades
    ((ours,), *_) = play_tape(make_tape(candles), rules, script)
    candles_ms = make_tape(candles).dates_ms
    assert _exit_orders_wait(backtester.strategy, config) == waits
    assert (theirs.close_ms, theirs.close_rate) == ((candles_ms[2], 100.9) if waits else (ours.close_ms, 100.0))


def test_own_exit_signals_that_wait_for_a_profit_are_named(
    backtesters: dict[bool, Backtester], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backtester = backtesters[False]
    strategy = backtester.strategy
    monkeypatch.setattr(strategy, "exit_profit_only", True)
    rows = [(100.0, 100.2, 99.8, 100.01), (100.0, 100.2, 99.8, 100.0), (99.0, 99.2, 98.9, 99.0)] * 2
    candles = candle_table(*rows)
    terms = candles[["date"]].assign(long_exit=[False, True, *[False] * 4], short_exit=False)
    script = np.array([0, Action.LONG_ENTER, 0, 0, 0, 0])
    rules = make_rules(**FIXED)
    (theirs,) = backtester.run(candles, rules, script, terms=terms).trades
    ((ours,), *_) = play_tape(make_tape(candles.merge(terms, on="date")), rules, script)
    # Its profit is a loss: freqtrade goes on.
    assert (ours.exit_reason, theirs.exit_reason) == ("exit_signal", "force_exit")
    Asker(strategy, backtester.config, backtester.exchange).terms(PAIR, candles, Stake(STAKE, 10 * STAKE))
    assert "exit_profit_only: the strategy's own exit signals are passed over up to a profit of" in caplog.text
