"""Runs on other terms: on their own they are the runs themselves, and dearer or later what is worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from builders import PAIR, candle_table, make_rules, make_tape, random_candles
from parity.backtester import Backtester

from mtfscalper.reporting.reliving import relive
from mtfscalper.reporting.trades import COLUMNS, trades_of_freqtrade
from mtfscalper.search.variations import dearer, varied
from mtfscalper.trading.actions import Action

TIMEFRAME_MS = 300_000
N = 700
SAME = ["close_ms", "close_rate", "held_candles"]


def entry(rules, tape, at: int, held: int, reason: str = "rl_exit", short: bool = False) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    frame = pd.DataFrame(0.0, index=[0], columns=list(COLUMNS))
    return frame.assign(
        pair=PAIR,
        is_short=short,
        leverage=1.0,
        stake=100.0,
        fee_ratio=rules.fee_ratio,
        open_ms=tape.dates_ms[at],
        open_rate=tape.open[at],
        held_candles=held,
        exit_reason=reason,
    )


def test_on_its_own_terms_a_run_is_itself(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """By freqtrade's backtester, left at random, by stop and by ROI."""
    rules = make_rules(minimal_roi=((0, 0.02),), max_trade_duration_candles=48, fixed_stake_ratio=0.01)
    candles = random_candles(3, N, volatility=0.004)
    rng = np.random.default_rng(3)
    actions = (Action.LONG_ENTER, Action.LONG_EXIT, Action.SHORT_ENTER, Action.SHORT_EXIT)
    script = rng.choice(np.array(actions), N)
    funding = pd.DataFrame({"date": candles["date"].iloc[::96], "open_mark": candles["open"].iloc[::96]})
    results = Backtester(tmp_path).run(candles, rules, script, funding.assign(open_fund=0.0005)).results
    trades = trades_of_freqtrade(results, TIMEFRAME_MS)
    assert {"stop_loss", "roi"} < set(trades["exit_reason"])
    tapes = {PAIR: make_tape(candles.assign(funding=np.where(np.arange(N) % 96 == 0, candles["open"] * 0.0005, 0.0)))}
    found = varied(trades, tapes, {PAIR: rules})
    pd.testing.assert_frame_equal(found.trades[SAME], trades[SAME], check_dtype=False)
    np.testing.assert_allclose(found.trades["profit_ratio"], trades["profit_ratio"], rtol=0, atol=1e-12)
    pd.testing.assert_frame_equal(found.classic, relive(trades, tapes, {PAIR: rules}))
    difference = found.trades["profit_ratio"].sum() - found.classic["profit_ratio"].sum()
    assert found.difference == pytest.approx(difference, abs=1e-12)


def test_fees_are_paid_on_both_sides_of_a_trade_that_is_left_as_before() -> None:
    rules = make_rules(fee_ratio=0.001, stoploss_ratio=0.5)
    candles = candle_table(*[(rate, rate, rate, rate) for rate in (100.0, 100.0, 102.0, 102.0, 101.0)])
    tapes = {PAIR: make_tape(candles)}
    [ratio] = varied(entry(rules, tapes[PAIR], 1, 1), tapes, {PAIR: rules}, fee_factor=1.5).trades["profit_ratio"]
    assert ratio == pytest.approx(102 * (1 - 0.0015) / (100 * (1 + 0.0015)) - 1, abs=1e-12)
    assert dearer({PAIR: rules}, 1.5)[PAIR].fee_ratio == pytest.approx(0.0015)


def test_a_late_entry_is_made_at_the_next_open_and_left_where_the_run_left() -> None:
    rules = make_rules(fee_ratio=0.0, stoploss_ratio=0.5)
    rates = (100.0, 110.0, 121.0, 133.1, 133.1, 133.1)
    tapes = {PAIR: make_tape(candle_table(*[(rate, rate, rate, rate) for rate in rates]))}
    found = varied(entry(rules, tapes[PAIR], 0, 3), tapes, {PAIR: rules}, late_candles=1).trades
    assert found["open_rate"].tolist() == [110.0]
    assert found["held_candles"].tolist() == [2]
    assert found["profit_ratio"].tolist() == pytest.approx([0.21])
    # Left one candle after its entry: nobody is asked at the late entry's own candle.
    found = varied(entry(rules, tapes[PAIR], 0, 1), tapes, {PAIR: rules}, late_candles=1).trades
    assert found["held_candles"].tolist() == [1]
    # The market ends before it is made.
    assert varied(entry(rules, tapes[PAIR], 4, 1), tapes, {PAIR: rules}, late_candles=1).trades.empty


def test_a_stopped_trade_whose_stop_is_no_longer_met_is_left_at_the_next_open() -> None:
    rules = make_rules(fee_ratio=0.0, stoploss_ratio=0.05)
    # Entered at 100 the stop at 95 is met in the third candle; entered at 96, that at 91.2 is not.
    candles = candle_table((100, 100, 100, 100), (96, 96, 96, 96), (96, 96, 94, 95), (97, 97, 97, 97), (97, 97, 97, 97))
    tapes = {PAIR: make_tape(candles)}
    trades = relive(entry(rules, tapes[PAIR], 0, 0), tapes, {PAIR: rules})
    assert trades[["held_candles", "exit_reason"]].to_numpy().tolist() == [[2, "stop_loss"]]
    [late] = varied(trades, tapes, {PAIR: rules}, late_candles=1).trades.to_dict("records")
    assert (late["close_rate"], late["held_candles"]) == (97.0, 2)


def test_a_run_without_trades_has_none_on_other_terms() -> None:
    rules = make_rules()
    tapes = {PAIR: make_tape(random_candles(1, 50))}
    none = entry(rules, tapes[PAIR], 1, 1).iloc[:0]
    found = varied(none, tapes, {PAIR: rules}, fee_factor=1.5, late_candles=1)
    assert found.trades.empty
    assert found.difference == 0.0
