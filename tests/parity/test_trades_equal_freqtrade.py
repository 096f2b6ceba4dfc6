"""The trading rules judged by freqtrade's own backtester: the same candles, the same decisions, the same trades.

The tables follow freqtrade's tests/optimize/test_backtest_detail.py. Candle 0 closes before the first decision.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import TIMEFRAME_MS, candle_table, make_rules, make_settings, make_tape, random_candles
from parity.backtester import Backtester
from parity.playing import assert_same_trades, play_tape

from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.trading.actions import Action
from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.trading.trading_rules import TradingRules

LONG, SHORT = Action.LONG_ENTER, Action.SHORT_ENTER
LEAVE_LONG, LEAVE_SHORT = Action.LONG_EXIT, Action.SHORT_EXIT

QUIET = (100.0, 100.2, 99.8, 100.0)
# Two decimals: prices move in ticks of 0.01.
BEFORE = (100.0, 100.01, 99.99, 100.0)

Judge = Callable[..., list[ClosedTrade]]


@pytest.fixture(scope="module")
def backtester(tmp_path_factory: pytest.TempPathFactory) -> Backtester:
    return Backtester(tmp_path_factory.mktemp("freqtrade"))


@pytest.fixture(scope="module")
def judge(backtester: Backtester) -> Judge:
    """Trade a table both ways: the trades, once they are known to be freqtrade's."""

    def trade(rows: list[tuple[float, ...]], actions: dict[int, Action], **rules: Any) -> list[ClosedTrade]:
        candles = candle_table(BEFORE, *rows)
        script = np.zeros(len(candles), dtype=int)
        script[list(actions)] = list(actions.values())
        expected = backtester.run(candles, make_rules(**rules), script).trades
        trades, _ = play_rules(candles, make_rules(**rules), script)
        assert_same_trades(trades, expected)
        return trades

    return trade


def play_rules(candles: pd.DataFrame, rules: TradingRules, actions: np.ndarray) -> tuple[list[ClosedTrade], float]:
    """The trades of a script under our rules, and the final equity."""
    trades, _, equity = play_tape(make_tape(candles), rules, actions)
    return trades, equity


def play_env(env: TradingEnv, choose: Callable[[int, np.ndarray], int]) -> tuple[list[ClosedTrade], float]:
    """The trades of one episode; ``choose`` takes the candle to be decided and the action mask."""
    observation, _ = env.reset()
    while True:
        action = choose(int(observation[0]) + 1, env.action_masks())
        observation, _, terminated, truncated, info = env.step(np.int64(action))
        if terminated or truncated:
            assert not terminated
            return info["trades"], info["final_equity"]


def candle_of(ms: int) -> int:
    return (ms - int(pd.Timestamp("2024-01-10", tz="UTC").value // 10**6)) // TIMEFRAME_MS


def outcome(trade: ClosedTrade) -> tuple[str, int, float]:
    """Why, on which candle and at what rate a trade was closed."""
    return trade.exit_reason, candle_of(trade.close_ms), trade.close_rate


# Stop-loss


def test_stop_loss_fills_at_stop_price_when_low_crosses_it(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 100.1, 97.5, 98.2), QUIET], {1: LONG})
    assert outcome(trade) == ("stop_loss", 2, 98.0)
    assert (candle_of(trade.open_ms), trade.open_rate, trade.is_short) == (1, 100.0, False)
    # Vo = 100 x 1.0005 = 100.05, Vc = 98 x 0.9995 = 97.951
    assert trade.profit_ratio == pytest.approx(97.951 / 100.05 - 1, abs=1e-12)


def test_stop_loss_of_a_short_fills_at_stop_price_when_high_crosses_it(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 102.7, 99.9, 101.0), QUIET], {1: SHORT})
    assert outcome(trade) == ("stop_loss", 2, 102.0)
    assert trade.is_short
    # Vo = 100 x 0.9995 = 99.95, Vc = 102 x 1.0005 = 102.051
    assert trade.profit_ratio == pytest.approx(1 - 102.051 / 99.95, abs=1e-12)


def test_stop_loss_is_hit_when_the_low_only_touches_it(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 100.1, 98.0, 98.2), QUIET], {1: LONG})
    assert outcome(trade) == ("stop_loss", 2, 98.0)


def test_stop_loss_is_not_hit_one_tick_above_it(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 100.1, 98.01, 98.2), QUIET], {1: LONG})
    assert outcome(trade) == ("force_exit", 3, 100.0)


def test_stop_loss_is_tested_on_the_entry_candle(judge: Judge) -> None:
    (trade,) = judge([(100.0, 100.1, 97.0, 97.1), QUIET], {1: LONG})
    assert outcome(trade) == ("stop_loss", 1, 98.0)


def test_a_gap_below_the_stop_fills_at_the_open(judge: Judge) -> None:
    (trade,) = judge([QUIET, (97.0, 97.5, 96.0, 96.5), QUIET], {1: LONG})
    assert outcome(trade) == ("stop_loss", 2, 97.0)


def test_a_gap_above_the_stop_of_a_short_fills_at_the_open(judge: Judge) -> None:
    (trade,) = judge([QUIET, (103.0, 104.0, 102.5, 103.5), QUIET], {1: SHORT})
    assert outcome(trade) == ("stop_loss", 2, 103.0)


def test_a_gapped_open_fills_at_the_stop_when_the_candle_trades_back_to_it(judge: Judge) -> None:
    (trade,) = judge([QUIET, (97.0, 98.5, 96.0, 98.4), QUIET], {1: LONG})
    assert outcome(trade) == ("stop_loss", 2, 98.0)


def test_stop_rates_are_rounded_towards_the_entry(judge: Judge) -> None:
    entry = (100.01, 100.2, 99.8, 100.0)
    # 100.01 x 0.98 = 98.0098, up to 98.01; 100.01 x 1.02 = 102.0102, down to 102.01
    (long,) = judge([entry, (100.0, 100.1, 97.5, 98.2), QUIET], {1: LONG})
    (short,) = judge([entry, (100.0, 102.7, 99.9, 101.0), QUIET], {1: SHORT})
    assert (long.close_rate, short.close_rate) == (98.01, 102.01)


def test_leverage_narrows_the_stop_and_multiplies_the_loss(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 100.1, 98.5, 98.6), QUIET], {1: LONG}, leverage_long=2.0)
    assert outcome(trade) == ("stop_loss", 2, 99.0)
    # Vc = 99 x 0.9995 = 98.9505
    assert trade.profit_ratio == pytest.approx(2 * (98.9505 / 100.05 - 1), abs=1e-12)


def test_each_side_trades_with_its_own_leverage(judge: Judge) -> None:
    leverage = {"leverage_long": 2.0, "leverage_short": 5.0}
    (trade,) = judge([QUIET, (100.0, 101.0, 99.9, 100.5), QUIET], {1: SHORT}, **leverage)
    assert outcome(trade) == ("stop_loss", 2, 100.4)


# Decisions


def test_an_exit_fills_at_the_open_before_the_candle_tests_the_stop(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.5, 100.6, 97.0, 97.1), QUIET], {1: LONG, 2: LEAVE_LONG})
    assert outcome(trade) == ("exit_signal", 2, 100.5)


def test_actions_that_cannot_be_done_do_nothing(judge: Judge) -> None:
    # Leaving flat, entering twice, leaving the side one does not hold.
    actions = {1: LEAVE_LONG, 2: LONG, 3: LONG, 4: SHORT, 5: LEAVE_SHORT, 6: LEAVE_LONG, 7: LEAVE_LONG}
    (trade,) = judge([QUIET] * 8, actions)
    assert (candle_of(trade.open_ms), candle_of(trade.close_ms)) == (2, 6)


def test_a_short_needs_can_short(judge: Judge) -> None:
    (trade,) = judge([QUIET] * 6, {1: SHORT, 3: LONG, 4: LEAVE_LONG}, can_short=False)
    assert not trade.is_short
    assert candle_of(trade.open_ms) == 3


def test_the_other_side_does_not_enter_on_the_candle_of_an_exit(judge: Judge) -> None:
    crash = (100.0, 100.1, 97.5, 97.6)
    (trade,) = judge([QUIET, crash, QUIET, QUIET], {1: LONG, 2: SHORT})
    assert outcome(trade) == ("stop_loss", 2, 98.0)


def test_a_new_trade_can_be_entered_on_the_candle_after_an_exit(judge: Judge) -> None:
    first, second = judge([QUIET] * 5, {1: LONG, 2: LEAVE_LONG, 3: LONG})
    assert (candle_of(first.close_ms), candle_of(second.open_ms)) == (2, 3)


def test_a_trade_leaves_at_the_open_after_its_longest_duration(judge: Judge) -> None:
    (trade,) = judge([QUIET] * 6, {2: LONG}, max_trade_duration_candles=3)
    assert outcome(trade) == ("max_duration", 5, 100.0)


def test_an_open_trade_is_closed_at_the_last_open(judge: Judge) -> None:
    (trade,) = judge([QUIET, QUIET, (100.3, 100.4, 100.1, 100.2)], {1: LONG})
    assert outcome(trade) == ("force_exit", 3, 100.3)


def test_the_last_candle_tests_the_stop_before_the_trade_is_closed(judge: Judge) -> None:
    (trade,) = judge([QUIET, QUIET, (100.3, 100.4, 97.0, 97.2)], {1: LONG})
    assert outcome(trade) == ("stop_loss", 3, 98.0)


# ROI


def test_roi_fills_at_the_rate_that_pays_it_after_fees(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 101.5, 99.9, 101.0), QUIET], {1: LONG}, minimal_roi=((0, 0.01),))
    # 1.01 x 100.05 / 0.9995 = 101.1011
    assert outcome(trade) == ("roi", 2, 101.1)
    assert trade.profit_ratio == pytest.approx(0.01, abs=1.5e-5)


def test_roi_of_a_leveraged_short_fills_below_the_entry(judge: Judge) -> None:
    roi = {"minimal_roi": ((0, 0.01),), "leverage_short": 2.0}
    (trade,) = judge([QUIET, (100.0, 100.1, 99.0, 99.5), QUIET], {1: SHORT}, **roi)
    # (1 - 0.01 / 2) x 99.95 / 1.0005 = 99.4005
    assert outcome(trade) == ("roi", 2, 99.4)


def test_roi_is_tested_on_the_entry_candle(judge: Judge) -> None:
    (trade,) = judge([(100.0, 101.5, 99.9, 101.0), QUIET], {1: LONG}, minimal_roi=((0, 0.01),))
    assert outcome(trade) == ("roi", 1, 101.1)


def test_roi_needs_more_than_its_profit(judge: Judge) -> None:
    roi = {"minimal_roi": ((0, 0.01),), "fee_ratio": 0.0}
    (exact,) = judge([QUIET, (100.0, 101.0, 99.9, 101.0), QUIET], {1: LONG}, **roi)
    (above,) = judge([QUIET, (100.0, 101.01, 99.9, 101.0), QUIET], {1: LONG}, **roi)
    assert (outcome(exact), outcome(above)) == (("force_exit", 3, 100.0), ("roi", 2, 101.0))


def test_a_roi_step_that_starts_on_a_candle_fills_at_a_better_open(judge: Judge) -> None:
    rows = [QUIET, (100.0, 100.8, 100.0, 100.7), (100.7, 100.9, 100.6, 100.8), QUIET]
    (trade,) = judge(rows, {1: LONG}, minimal_roi=((0, 0.05), (10, 0.005)))
    # The step pays from 100.6005 on.
    assert outcome(trade) == ("roi", 3, 100.7)


def test_a_roi_step_that_starts_inside_a_candle_fills_inside_the_next(judge: Judge) -> None:
    rows = [QUIET, QUIET, (100.7, 100.9, 100.65, 100.8), QUIET]
    (trade,) = judge(rows, {1: LONG}, minimal_roi=((0, 0.05), (7, 0.005)))
    # 100.6005 lies below the candle, whose low is the nearest rate that traded.
    assert outcome(trade) == ("roi", 3, 100.65)


def test_a_roi_of_minus_one_leaves_at_the_open(judge: Judge) -> None:
    (trade,) = judge([QUIET, QUIET, QUIET, QUIET], {1: LONG}, minimal_roi=((0, 0.05), (10, -1)))
    assert outcome(trade) == ("roi", 3, 100.0)


def test_a_roi_of_minus_one_from_the_start_leaves_at_the_open_it_entered_at(judge: Judge) -> None:
    (trade,) = judge([QUIET, QUIET, QUIET], {1: LONG}, minimal_roi=((0, -1),))
    assert outcome(trade) == ("roi", 1, 100.0)


def test_a_roi_of_minus_one_inside_a_candle_leaves_at_the_worst_of_the_next(judge: Judge) -> None:
    (long,) = judge([QUIET] * 4, {1: LONG}, minimal_roi=((0, 0.05), (7, -1)))
    (short,) = judge([QUIET] * 4, {1: SHORT}, minimal_roi=((0, 0.05), (7, -1)))
    assert (outcome(long), outcome(short)) == (("roi", 3, 99.8), ("roi", 3, 100.2))


def test_no_roi_applies_before_the_first_step_of_its_table(judge: Judge) -> None:
    rally = (100.0, 101.5, 99.9, 101.0)
    (trade,) = judge([QUIET, rally, rally, QUIET], {1: LONG}, minimal_roi=((10, 0.01),))
    assert outcome(trade) == ("roi", 3, 101.1)


def test_stop_loss_comes_before_roi_within_a_candle(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 103.0, 97.0, 101.0), QUIET], {1: LONG}, minimal_roi=((0, 0.01),))
    assert outcome(trade) == ("stop_loss", 2, 98.0)


def test_roi_comes_before_a_trailing_stop_within_a_candle(judge: Judge) -> None:
    rules = {"minimal_roi": ((0, 0.01),), "trailing_stop": True}
    (trade,) = judge([QUIET, (100.0, 103.0, 98.5, 101.0), QUIET], {1: LONG}, **rules)
    assert outcome(trade) == ("roi", 2, 101.1)


# Trailing stop


def test_a_trailing_stop_is_raised_by_the_high_before_the_low_tests_it(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 101.0, 98.9, 100.0), QUIET], {1: LONG}, trailing_stop=True)
    # 101 x 0.98
    assert outcome(trade) == ("trailing_stop_loss", 2, 98.98)


def test_a_trailing_stop_of_a_short_is_lowered_by_the_low(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 101.1, 99.0, 100.0), QUIET], {1: SHORT}, trailing_stop=True)
    # 99 x 1.02
    assert outcome(trade) == ("trailing_stop_loss", 2, 100.98)


def test_a_trailing_stop_does_not_move_when_the_candle_already_reaches_the_stop(judge: Judge) -> None:
    (trade,) = judge([QUIET, (100.0, 103.0, 97.9, 100.0), QUIET], {1: LONG}, trailing_stop=True)
    # The entry candle has raised it to 100.2 x 0.98 = 98.196; 103 x 0.98 would be 100.94.
    assert outcome(trade) == ("trailing_stop_loss", 2, 98.2)


def test_a_trailing_stop_keeps_its_distance_until_the_offset_is_passed(judge: Judge) -> None:
    trailing = {"trailing_stop": True, "trailing_stop_positive": 0.005, "trailing_stop_positive_offset": 0.01}
    below = (100.0, 101.0, 99.0, 100.0)
    above = (101.6, 102.0, 101.6, 101.8)
    fall = (101.5, 101.6, 97.0, 97.5)
    (early,) = judge([QUIET, below, fall, QUIET], {1: LONG}, **trailing)
    (late,) = judge([QUIET, above, fall, QUIET], {1: LONG}, **trailing)
    # 101 x 0.98, 102 x 0.995; the candle that falls below both does not raise them.
    assert outcome(early) == ("trailing_stop_loss", 3, 98.98)
    assert outcome(late) == ("trailing_stop_loss", 3, 101.49)


def test_a_trailing_stop_that_waits_for_its_offset_leaves_the_stop_loss_alone_before(judge: Judge) -> None:
    trailing = {
        "trailing_stop": True,
        "trailing_stop_positive": 0.005,
        "trailing_stop_positive_offset": 0.01,
        "trailing_only_offset_is_reached": True,
    }
    (trade,) = judge([QUIET, (100.0, 101.0, 97.0, 97.5), QUIET], {1: LONG}, **trailing)
    assert outcome(trade) == ("stop_loss", 2, 98.0)


def test_a_trailing_stop_on_the_entry_candle_assumes_the_worst_order_of_prices(judge: Judge) -> None:
    trailing = {"trailing_stop": True, "trailing_stop_positive": 0.005}
    (trade,) = judge([(100.0, 101.0, 99.0, 100.0), QUIET], {1: LONG}, **trailing)
    # Up by nothing, then down by the distance: 100 x 0.995, although 101 x 0.995 is the stop.
    assert outcome(trade) == ("trailing_stop_loss", 1, 99.5)


def test_the_worst_order_of_prices_stays_inside_the_candle(judge: Judge) -> None:
    (long,) = judge([(100.0, 101.0, 98.5, 100.0), QUIET], {1: LONG}, trailing_stop=True)
    (short,) = judge([(100.0, 101.5, 99.0, 100.0), QUIET], {1: SHORT}, trailing_stop=True)
    assert outcome(long) == ("trailing_stop_loss", 1, 98.5)
    assert outcome(short) == ("trailing_stop_loss", 1, 101.5)


def test_half_a_tick_is_rounded_up(judge: Judge) -> None:
    trailing = {"trailing_stop": True, "trailing_stop_positive": 0.005}
    (trade,) = judge([(103.0, 104.0, 102.0, 103.0), QUIET], {1: LONG}, **trailing)
    # 103 x 0.995 = 102.485: the nearest even number of ticks would be 102.48.
    assert outcome(trade) == ("trailing_stop_loss", 1, 102.49)


def test_a_trailing_stop_that_passes_its_offset_on_the_entry_candle_fills_below_it(judge: Judge) -> None:
    trailing = {
        "trailing_stop": True,
        "trailing_stop_positive": 0.005,
        "trailing_stop_positive_offset": 0.01,
        "trailing_only_offset_is_reached": True,
    }
    (trade,) = judge([(100.0, 102.0, 99.9, 100.0), QUIET], {1: LONG}, **trailing)
    # Up to 101, down by 0.5 % of the open.
    assert outcome(trade) == ("trailing_stop_loss", 1, 100.5)


def test_an_exit_order_that_its_candle_does_not_reach_lapses(judge: Judge) -> None:
    trailing = {
        "trailing_stop": True,
        "trailing_stop_positive": 0.005,
        "trailing_stop_positive_offset": 0.01,
        "trailing_only_offset_is_reached": True,
        "leverage_long": 5.0,
    }
    # Five times leveraged, 1 % of profit is a move of 0.2 %; the order at 100 x (1 + 0.01 - 0.001) is never filled.
    entry = (100.0, 100.4, 100.0, 100.3)
    (trade,) = judge(
        [entry, (100.35, 100.6, 100.32, 100.5), (100.5, 100.6, 100.4, 100.5), QUIET], {1: LONG}, **trailing
    )
    # 100.6 x 0.999 = 100.4994, up to 100.5
    assert outcome(trade) == ("trailing_stop_loss", 2, 100.5)


# Money


def test_funding_is_paid_from_the_entry_to_the_exit_inclusive(backtester: Backtester) -> None:
    candles = candle_table(BEFORE, *[QUIET] * 40)
    hours = candles.index[candles["date"].dt.minute == 0]
    funding = pd.DataFrame({"date": candles["date"][hours], "open_mark": 101.0, "open_fund": [0.1, 0.002, 0.004, 0.1]})
    charged = candles.assign(funding=0.0)
    charged.loc[hours, "funding"] = funding["open_mark"] * funding["open_fund"]
    script = np.zeros(len(candles), dtype=int)
    script[12], script[24] = LONG, LEAVE_LONG
    expected = backtester.run(candles, make_rules(), script, funding).trades
    trades, _ = play_rules(charged, make_rules(), script)
    assert_same_trades(trades, expected)
    # Vo = 100.05, Vc = 99.95 - 101 x (0.002 + 0.004) = 99.344
    assert trades[0].profit_ratio == pytest.approx(99.344 / 100.05 - 1, abs=1e-12)


def test_a_trade_keeps_the_ticks_of_the_month_it_was_entered_in(backtester: Backtester) -> None:
    coarse, fine = (100.0, 100.2, 99.8, 100.0), (100.004, 100.257, 99.811, 100.003)
    candles = candle_table(coarse, coarse, fine, fine, fine, start="2024-01-31 23:50")
    script = np.array([0, LONG, LEAVE_LONG, 0, 0])
    expected = backtester.run(candles, make_rules(), script).trades
    trades, _ = play_rules(candles, make_rules(), script)
    assert_same_trades(trades, expected)
    assert trades[0].close_rate == 100.0


ROI_TABLES = (
    (),
    ((0, 0.02),),
    ((0, 0.03), (20, 0.01), (45, 0.002)),
    ((0, 0.05), (7, 0.01), (33, -0.005)),
    ((0, 0.04), (30, -1)),
    ((0, 0.03), (12, -1)),
    ((10, 0.004),),
)
TRAILING_MODES: tuple[dict[str, Any], ...] = (
    {},
    {"trailing_stop": True},
    {"trailing_stop": True, "trailing_stop_positive": 0.006},
    {"trailing_stop": True, "trailing_stop_positive": 0.008, "trailing_stop_positive_offset": 0.015},
    {"trailing_stop": True, "trailing_stop_positive_offset": 0.01, "trailing_only_offset_is_reached": True},
    {
        "trailing_stop": True,
        "trailing_stop_positive": 0.008,
        "trailing_stop_positive_offset": 0.015,
        "trailing_only_offset_is_reached": True,
    },
)
ALL_REASONS = {"exit_signal", "max_duration", "stop_loss", "roi", "trailing_stop_loss", "force_exit"}


def random_rules(rng: np.random.Generator, **changes: Any) -> TradingRules:
    rules = {
        "fee_ratio": float(rng.choice([0.0002, 0.0005, 0.001])),
        "stoploss_ratio": float(rng.choice([0.005, 0.01, 0.02, 0.05, 0.2])),
        "max_trade_duration_candles": int(rng.choice([1, 5, 20, 96])),
        "leverage_long": float(rng.choice([1.0, 1.5, 2.0, 3.0, 5.0])),
        "leverage_short": float(rng.choice([1.0, 2.0, 2.7, 5.0])),
        "minimal_roi": ROI_TABLES[rng.integers(len(ROI_TABLES))],
        "can_short": bool(rng.random() < 0.9),
        # An episode goes to the end of the candles, as a backtest does.
        "max_drawdown_ratio": 1.0,
    }
    return make_rules(**(rules | TRAILING_MODES[rng.integers(len(TRAILING_MODES))] | changes))


def random_market(rng: np.random.Generator, n: int) -> pd.DataFrame:
    return random_candles(
        int(rng.integers(2**31)),
        n,
        volatility=float(rng.choice([0.001, 0.003, 0.006])),
        decimals=int(rng.integers(1, 5)),
        rate=float(rng.choice([100.0, 250.0, 3000.0])),
        # Over the end of a month, where the number of decimals can change.
        start="2024-01-31 12:00",
    )


def test_random_scripts_give_the_trades_of_freqtrade_under_every_rule(backtester: Backtester) -> None:
    n, reasons, sides = 300, Counter[str](), Counter[bool]()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        candles, rules = random_market(rng, n), random_rules(rng)
        script = np.where(rng.random(n) < 0.6, Action.NEUTRAL, rng.integers(0, 5, n))
        script[-1] = Action.NEUTRAL
        expected = backtester.run(candles, rules, script).trades
        trades, _ = play_rules(candles, rules, script)
        assert_same_trades(trades, expected, rules)
        changes = {name: getattr(rules, name) for name in rules.__dataclass_fields__}
        env = TradingEnv(make_tape(candles), make_settings("agent", **changes))
        env_trades, _ = play_env(env, lambda k, _mask, script=script: script[k])
        assert env_trades == trades
        reasons.update(trade.exit_reason for trade in trades)
        sides.update(trade.is_short for trade in trades)
    assert set(reasons) == ALL_REASONS
    assert min(reasons.values()) >= 5
    assert min(sides[True], sides[False]) > 500


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_what_an_environment_did_in_every_entry_mode_gives_the_same_trades_in_freqtrade(
    backtester: Backtester, entry_mode: str
) -> None:
    n, trades_seen = 400, 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        candles = random_market(rng, n)
        long_signal, short_signal = rng.random(n) < 0.08, rng.random(n) < 0.08
        both = long_signal & short_signal
        tape = make_tape(candles, long_signal, short_signal)
        rules = random_rules(rng, can_short=True)
        changes = {name: getattr(rules, name) for name in rules.__dataclass_fields__}
        script = np.zeros(n, dtype=int)
        if entry_mode == "classic":
            # Signals enter by themselves; while a trade is open freqtrade ignores them.
            script[1:] = np.where(long_signal & ~both, LONG, np.where(short_signal & ~both, SHORT, 0))[:-1]
            script[-1] = Action.NEUTRAL

        def choose(k: int, mask: np.ndarray, script: np.ndarray = script, rng: np.random.Generator = rng) -> int:
            script[k] = rng.choice(np.flatnonzero(mask)) if rng.random() < 0.4 else Action.NEUTRAL
            return int(script[k])

        trades, _ = play_env(TradingEnv(tape, make_settings(entry_mode, **changes)), choose)
        expected = backtester.run(candles, rules, script).trades
        assert_same_trades(trades, expected, rules)
        trades_seen += len(trades)
    assert trades_seen > 50


def test_equity_grows_as_the_wallet_of_freqtrade(tmp_path: Path) -> None:
    """The whole wallet is staked on every trade, so that profits compound."""
    backtester = Backtester(tmp_path, stake_ratio=0.9, fixed_stake_ratio=None)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        candles = random_candles(seed, 300)
        script = rng.integers(0, 5, 300)
        script[-1] = Action.NEUTRAL
        rules = make_rules(stake_ratio=0.9, leverage_long=3.0, leverage_short=2.0, minimal_roi=((0, 0.03),))
        trades, wallet, *_ = backtester.run(candles, rules, script)
        _, equity = play_rules(candles, rules, script)
        assert len(trades) > 30
        assert abs(wallet - 1) > 0.02
        assert equity == pytest.approx(wallet, rel=1e-12)
