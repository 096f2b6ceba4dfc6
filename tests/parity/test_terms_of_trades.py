"""What a strategy says of its trades candle by candle, and liquidations: the trades of freqtrade's own backtester."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import make_rules, make_tape, random_candles
from parity.backtester import PAIR, STAKE, WALLET, Backtester
from parity.playing import assert_same_trades, play_tape

from mtfscalper.freqai.entry_terms import Asker, Stake
from mtfscalper.trading.actions import Action
from mtfscalper.trading.trading_rules import TradingRules

N = 400


@pytest.fixture(scope="module")
def backtester(tmp_path_factory: pytest.TempPathFactory) -> Backtester:
    return Backtester(tmp_path_factory.mktemp("terms"))


def script_of(rng: np.random.Generator, candles: pd.DataFrame, leaves: float = 0.02) -> np.ndarray:
    """Entries wherever the account is flat, and few exits of its own, so that the rules end the trades."""
    script = np.where(rng.random(N) < 0.5, Action.LONG_ENTER, Action.SHORT_ENTER)
    script = np.where(
        rng.random(N) < leaves, np.where(rng.random(N) < 0.5, Action.LONG_EXIT, Action.SHORT_EXIT), script
    )
    script[-1] = Action.NEUTRAL
    return script


# As the arena stakes.
FIXED: dict[str, Any] = {"fixed_stake_ratio": STAKE / WALLET}


def compare(
    backtester: Backtester, candles: pd.DataFrame, rules: TradingRules, script: np.ndarray, terms: pd.DataFrame
) -> list[Any]:
    """The trades of both, which are the same."""
    expected = backtester.run(candles, rules, script, terms=terms)
    tape = make_tape(candles.merge(terms, on="date"))
    # freqtrade enters on no row with an exit signal of its side, which a script knows nothing of.
    for name, action in (("long", Action.LONG_ENTER), ("short", Action.SHORT_ENTER)):
        own = getattr(tape, f"{name}_exit")
        if own is not None:
            script = np.where(np.roll(own, 1) & (script == action), Action.NEUTRAL, script)
    trades, profits, _ = play_tape(tape, rules, script)
    assert_same_trades(trades, expected.trades, rules)
    np.testing.assert_allclose(profits, expected.profits[: len(profits)], rtol=0, atol=1e-9)
    return trades


def liquidation_terms(
    backtester: Backtester, rules: TradingRules, leverages: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> dict[str, np.ndarray]:
    backtester.use(rules)
    asker = Asker(backtester.strategy, backtester.config, backtester.exchange)
    return {
        side: asker._liquidations(PAIR, side, values, np.full(len(values), STAKE)) for side, values in leverages.items()
    }


@pytest.mark.parametrize("trailing", [False, True])
def test_a_stop_beyond_liquidation_is_the_liquidation(
    backtester: Backtester, monkeypatch: pytest.MonkeyPatch, trailing: bool
) -> None:
    reasons, sides = Counter[str](), Counter[bool]()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        candles = random_candles(seed, N, volatility=0.02, decimals=int(rng.integers(1, 4)))
        leverage = float(rng.choice([1.0, 3.0, 5.0, 10.0, 20.0, 50.0]))
        rules = make_rules(
            stoploss_ratio=float(rng.choice([0.9, 0.95, 0.99, 1.0])),
            leverage_long=leverage,
            leverage_short=leverage,
            max_trade_duration_candles=96,
            trailing_stop=trailing,
            **FIXED,
        )
        found = liquidation_terms(
            backtester, rules, {side: np.array([leverage]) for side in ("long", "short")}, monkeypatch
        )
        rules = make_rules(
            **{name: getattr(rules, name) for name in rules.__dataclass_fields__}
            | {f"liquidation_{side}": float(values[0]) for side, values in found.items()}
        )
        trades = compare(backtester, candles, rules, script_of(rng, candles), candles[["date"]])
        reasons.update(trade.exit_reason for trade in trades)
        sides.update(trade.is_short for trade in trades if trade.exit_reason == "liquidation")
    assert reasons["liquidation"] > (15 if trailing else 50)
    assert min(sides[True], sides[False]) > (5 if trailing else 20)
    # A candle that reaches both fills at the stop, beyond the liquidation.
    assert reasons["stop_loss" if not trailing else "trailing_stop_loss"] > 0


def test_a_leverage_of_each_candle_is_that_of_the_trades(
    backtester: Backtester, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = Counter[str]()
    seen = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        candles = random_candles(seed, N, volatility=0.01)
        rules = make_rules(
            stoploss_ratio=float(rng.choice([0.05, 0.3, 0.99])),
            leverage_long=None,
            leverage_short=None,
            minimal_roi=((0, 0.2),),
            **FIXED,
        )
        leverages = {side: rng.choice([1.0, 2.0, 3.5, 10.0], N) for side in ("long", "short")}
        liquidations = liquidation_terms(backtester, rules, leverages, monkeypatch)
        terms = candles[["date"]].assign(
            **{f"{side}_leverage": values for side, values in leverages.items()},
            **{f"{side}_liquidation": values for side, values in liquidations.items()},
        )
        trades = compare(backtester, candles, rules, script_of(rng, candles, leaves=0.2), terms)
        reasons.update(trade.exit_reason for trade in trades)
        seen |= {round(abs(trade.profit_ratio), 2) for trade in trades}
    assert {"liquidation", "stop_loss", "roi", "exit_signal"} <= set(reasons)
    assert len(seen) > 20


def test_own_exit_signals_close_trades_and_keep_entries_out(backtester: Backtester) -> None:
    n_trades = n_signals = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        candles = random_candles(seed, N)
        terms = candles[["date"]].assign(long_exit=rng.random(N) < 0.1, short_exit=rng.random(N) < 0.1)
        script = np.where(rng.random(N) < 0.3, rng.integers(1, 5, N), Action.NEUTRAL)
        # Where both an entry and an exit stand in a row freqtrade keeps an open trade; training says so, see
        # mtfscalper.freqai.entry_terms.Asker.
        for name, action in (("long_exit", Action.LONG_ENTER), ("short_exit", Action.SHORT_ENTER)):
            script = np.where(np.roll(terms[name], 1) & (script == action), Action.NEUTRAL, script)
        script[-1] = Action.NEUTRAL
        trades = compare(backtester, candles, make_rules(**FIXED), script, terms)
        n_trades += len(trades)
        n_signals += sum(trade.exit_reason == "exit_signal" for trade in trades)
    assert n_trades > 300
    assert n_signals > 200


@pytest.mark.parametrize("fixed", [True, False])
def test_own_stakes_are_those_of_the_trades(tmp_path: Path, fixed: bool) -> None:
    backtester = Backtester(tmp_path, stake_ratio=0.9, fixed_stake_ratio=0.2 if fixed else None)
    share = {"fixed_stake_ratio": 0.2} if fixed else {}
    rules = make_rules(stake_ratio=0.9, available_ratio=0.9, minimal_roi=((0, 0.03),), **share)
    n_trades = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        candles = random_candles(seed, N)
        factors = {f"{side}_stake": rng.choice([0.0, 0.3, 0.5, 1.0, 3.0, 10.0], N) for side in ("long", "short")}
        terms = candles[["date"]].assign(**factors)
        n_trades += len(compare(backtester, candles, rules, script_of(rng, candles, 0.3), terms))
    assert n_trades > 50


def test_the_terms_of_a_pair_are_read_of_the_strategy(backtester: Backtester, monkeypatch: pytest.MonkeyPatch) -> None:
    candles = random_candles(1, N)
    backtester.use(make_rules(stoploss_ratio=0.02, leverage_long=3.0, leverage_short=2.0))
    strategy = backtester.strategy
    strategy.terms, strategy.actions = None, np.full(N, Action.NEUTRAL)
    asker = Asker(strategy, backtester.config, backtester.exchange)
    constant = asker.terms(PAIR, candles, Stake(STAKE, 10 * STAKE))
    assert (constant.leverage, constant.liquidation, constant.stake_factor) == ((3.0, 2.0), (0.0, 0.0), 1.0)
    rng = np.random.default_rng(3)
    strategy.terms = candles[["date"]].assign(
        long_leverage=rng.choice([1.0, 5.0], N), short_leverage=2.0, long_stake=0.5, short_stake=0.5
    )
    varying = asker.terms(PAIR, candles, Stake(STAKE, 10 * STAKE))
    assert varying.leverage == (None, None)
    assert varying.stake_factor == 0.5
    pd.testing.assert_series_equal(varying.columns["long_leverage"][1:], strategy.terms["long_leverage"][1:])
    assert (varying.columns["short_leverage"] == 2.0).all()


def test_a_liquidation_is_that_of_the_tier_of_the_strategys_own_stake(tmp_path: Path) -> None:
    backtester = Backtester(tmp_path)
    exchange, strategy = backtester.exchange, backtester.strategy
    (tier,) = exchange._leverage_tiers[PAIR]
    # The dearer tier begins below the stake that is proposed.
    exchange._leverage_tiers[PAIR] = [
        tier | {"maxNotional": STAKE / 2},
        tier | {"minNotional": STAKE / 2, "maintenanceMarginRate": 0.05, "maintAmt": 0.023 * STAKE},
    ]
    reasons = Counter[str]()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        candles = random_candles(seed, N, volatility=0.02)
        terms = candles[["date"]].assign(long_leverage=10.0, short_leverage=10.0)
        for side in ("long", "short"):
            terms[f"{side}_stake"] = rng.choice([0.0, 0.25, 1.0], N)
        rules = make_rules(stoploss_ratio=0.99, leverage_long=None, leverage_short=None, **FIXED)
        backtester.use(rules)
        strategy.terms, strategy.actions = terms, np.full(N, Action.NEUTRAL)
        read = Asker(strategy, backtester.config, exchange).terms(PAIR, candles, Stake(STAKE, 10 * STAKE))
        assert len(set(read.columns["long_liquidation"])) == 2
        trades = compare(backtester, candles, rules, script_of(rng, candles), read.columns)
        reasons.update(trade.exit_reason for trade in trades)
    assert reasons["liquidation"] > 20
