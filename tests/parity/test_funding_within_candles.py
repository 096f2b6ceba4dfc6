"""Funding that falls between the opens of candles, judged by freqtrade's own backtester."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from builders import PAIR, make_rules, random_candles
from ccxt import TICK_SIZE
from freqtrade.enums import RunMode
from freqtrade.persistence import LocalTrade
from parity.backtester import Backtester
from parity.playing import assert_same_trades, play_tape

from mtfscalper.freqai.candles import CandleSource, PairCandles
from mtfscalper.freqai.open_trade import OpenTrade
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.reporting.trades import funding_due
from mtfscalper.trading.actions import Action

N = 400


def candles_of(frame: pd.DataFrame, timeframe: str, due: pd.Series) -> PairCandles:
    """A pair's candles as a bot and a backtest make them.

    :param due: funding on one unit of the asset, by date
    """
    exchange = SimpleNamespace(get_precision_price=lambda pair: 0.01, precision_mode_price=TICK_SIZE)
    config = {"trading_mode": "futures", "timeframe": timeframe, "runmode": RunMode.BACKTEST}
    source = CandleSource(config, SimpleNamespace(_exchange=exchange))  # type: ignore[arg-type]
    source.funding._due_by_pair[PAIR] = due
    return source.candles(PAIR, frame)


def market(hours: int, every: int = 8) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Candles of so many hours, and fundings so many hours apart: rates and marks, and what is due of them by date."""
    candles = random_candles(hours, N, volatility=0.004)
    candles["date"] = pd.date_range("2024-01-10", periods=N, freq=f"{hours}h", tz="UTC")
    times = pd.date_range(candles["date"].iloc[0], candles["date"].iloc[-1], freq=f"{every}h")
    rates = np.random.default_rng(hours).normal(0, 0.002, len(times))
    funding = pd.DataFrame({"date": times, "open_mark": 100.0, "open_fund": rates})
    return candles, funding, pd.Series(100.0 * rates, pd.DatetimeIndex(times))


@pytest.mark.parametrize(("timeframe", "hours", "every"), [("4h", 4, 8), ("4h", 4, 1), ("12h", 12, 8), ("1d", 24, 8)])
def test_trades_pay_the_funding_within_the_candles_that_they_live_through(
    tmp_path: Path, timeframe: str, hours: int, every: int
) -> None:
    frame, funding, due = market(hours, every)
    rules = make_rules(timeframe_minutes=60 * hours, max_trade_duration_candles=5, stoploss_ratio=0.02)
    actions = [Action.NEUTRAL, Action.LONG_ENTER, Action.SHORT_ENTER, Action.LONG_EXIT, Action.SHORT_EXIT]
    script = np.random.default_rng(hours).choice([int(action) for action in actions], N)
    ticks = pd.Series(0.01, index=pd.date_range("2023-12-01", periods=36, freq="MS", tz="UTC"))
    expected = Backtester(tmp_path, timeframe=timeframe).run(frame, rules, script, funding, ticks).trades

    candles = candles_of(frame, timeframe, due)
    tape = candles.tape(frame.assign(**{LONG_SIGNAL: 0, SHORT_SIGNAL: 0}), np.zeros((N, 1)))
    assert (tape.funding_within is None) == (hours < every)
    trades, _, _ = play_tape(tape, rules, script)
    assert_same_trades(trades, expected, rules)
    assert len(trades) > 60
    assert {trade.exit_reason for trade in trades} >= {"exit_signal", "max_duration", "stop_loss"}

    # What the report reckons, and what an open trade is shown to have received before the open of its exit.
    spans = [(datetime.fromtimestamp(one.open_ms / 1000, UTC), one.close_ms) for one in trades]
    closed = [pd.Timestamp(close_ms, unit="ms", tz="UTC") for _, close_ms in spans]
    paid = [due[opened:close].sum() for (opened, _), close in zip(spans, closed, strict=True)]
    reckoned = funding_due(tape, np.array([one.open_ms for one in trades]), np.array([one.close_ms for one in trades]))
    np.testing.assert_allclose(reckoned, paid, atol=1e-12)
    for one, (opened, close_ms), at_close, total in zip(trades, spans, closed, paid, strict=True):
        if close_ms > one.open_ms:
            trade = LocalTrade(  # type: ignore[no-untyped-call]
                pair=PAIR,
                open_date=opened,
                open_rate=one.open_rate,
                is_short=one.is_short,
                leverage=1.0,
                fee_open=0.0005,
                fee_close=0.0005,
            )
            account, _ = OpenTrade(trade, rules).at(candles.history(), close_ms, one.close_rate)
            before = total - due.get(at_close, 0.0)
            assert account.funding == pytest.approx(before if one.is_short else -before, abs=1e-12)


def test_funding_belongs_to_the_candle_in_which_it_falls_as_far_as_it_is_known() -> None:
    frame, _, due = market(24)
    known = due[due.index < frame["date"].iloc[3] + pd.Timedelta(hours=9)]
    within = candles_of(frame.iloc[:4], "1d", known).frame["funding_within"].tolist()
    # At 8 and 16 o'clock of each day; of the last one only the first is known.
    assert within == pytest.approx([*(due.iloc[3 * day + 1] + due.iloc[3 * day + 2] for day in range(3)), due.iloc[10]])
