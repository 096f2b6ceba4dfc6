"""Entries re-lived alone: the trades of freqtrade's own backtester, and what random exits and signals change."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from builders import PAIR, TIMEFRAME_MS, make_rules, make_tape, random_candles
from parity.backtester import STAKE, WALLET, Backtester

from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.daily import DAY_MS, daily_profits
from mtfscalper.reporting.reliving import ExitSignals, relive
from mtfscalper.reporting.trades import COLUMNS, trades_of_freqtrade
from mtfscalper.trading.actions import Action
from mtfscalper.trading.trading_rules import TradingRules

N = 700


@pytest.fixture(scope="module")
def backtester(tmp_path_factory: pytest.TempPathFactory) -> Backtester:
    return Backtester(tmp_path_factory.mktemp("reliving"))


def entries_of(
    tape: MarketTape, rules: TradingRules, at: list[int], *, short: bool = False, leverage: float = 1.0
) -> pd.DataFrame:
    """Entries at the opens of candles; what ended them is nobody's."""
    frame = pd.DataFrame(0.0, index=range(len(at)), columns=list(COLUMNS))
    return frame.assign(
        pair=PAIR,
        is_short=short,
        leverage=leverage,
        stake=100.0,
        fee_ratio=rules.fee_ratio,
        open_ms=tape.dates_ms[at],
        open_rate=tape.open[at],
        exit_reason="",
    )


def freqtrades_trades(backtester: Backtester, candles: pd.DataFrame, rules: TradingRules, seed: int) -> pd.DataFrame:
    """The trades of a script that enters wherever it can and never leaves."""
    rng = np.random.default_rng(seed)
    script = np.where(rng.random(N) < 0.5, Action.LONG_ENTER, Action.SHORT_ENTER)
    funding = pd.DataFrame(
        {"date": candles["date"].iloc[::96], "open_mark": candles["open"].iloc[::96], "open_fund": 0.0005}
    )
    results = backtester.run(candles, rules, script, funding).results
    return trades_of_freqtrade(results, TIMEFRAME_MS)


@pytest.mark.parametrize("trailing", [False, True])
def test_what_the_rules_end_in_freqtrade_they_end_here(backtester: Backtester, trailing: bool) -> None:
    reasons = Counter[str]()
    for seed in range(4):
        # Quiet markets end trades by their duration, the others by stop and ROI.
        candles = random_candles(seed, N, volatility=(0.0015, 0.005)[seed // 2])
        leverage = (1.0, 3.0)[seed % 2]
        rules = make_rules(
            leverage_long=leverage,
            leverage_short=leverage,
            minimal_roi=((0, 0.03), (60, 0.015)),
            max_trade_duration_candles=48,
            trailing_stop=trailing,
            fixed_stake_ratio=STAKE / WALLET,
        )
        trades = freqtrades_trades(backtester, candles, rules, seed)
        funding = np.where(np.arange(N) % 96 == 0, candles["open"] * 0.0005, 0.0)
        tape = make_tape(candles.assign(funding=funding))
        lived = relive(trades, {PAIR: tape}, {PAIR: rules})
        same = ["close_ms", "close_rate", "held_candles", "exit_reason"]
        pd.testing.assert_frame_equal(lived[same], trades[same], check_dtype=False)
        np.testing.assert_allclose(lived["profit_ratio"], trades["profit_ratio"], rtol=0, atol=1e-12)
        for money in ("profit", "gross", "fees", "funding"):
            np.testing.assert_allclose(lived[money], trades[money], rtol=0, atol=1e-9 * STAKE)
        reasons.update(trades["exit_reason"])
        assert (trades["funding"] != 0).any()
    ended = ("roi", "max_duration", "trailing_stop_loss" if trailing else "stop_loss")
    assert min(reasons[reason] for reason in ended) > 2


def test_entries_live_alone_and_may_overlap() -> None:
    tape, rules = make_tape(random_candles(1, 300, volatility=0.0001)), make_rules(max_trade_duration_candles=20)
    entries = entries_of(tape, rules, [10, 11, 12])
    lived = relive(entries, {PAIR: tape}, {PAIR: rules})
    assert lived["exit_reason"].tolist() == ["max_duration"] * 3
    assert lived["held_candles"].tolist() == [20] * 3
    assert lived["close_rate"].tolist() == tape.open[[30, 31, 32]].tolist()


def test_what_is_left_at_the_last_candle_is_closed_at_its_open() -> None:
    tape, rules = make_tape(random_candles(2, 50, volatility=0.0001)), make_rules()
    lived = relive(entries_of(tape, rules, [40]), {PAIR: tape}, {PAIR: rules})
    assert lived["exit_reason"].tolist() == ["force_exit"]
    assert lived["close_ms"].tolist() == [tape.dates_ms[-1]]
    assert lived["close_rate"].tolist() == [tape.open[-1]]


def test_a_trade_is_left_after_its_candles_unless_the_rules_were_faster() -> None:
    tape, rules = make_tape(random_candles(3, 300, volatility=0.0001)), make_rules(max_trade_duration_candles=20)
    entries = entries_of(tape, rules, [10, 10, 10], short=True)
    lived = relive(entries, {PAIR: tape}, {PAIR: rules}, leave_after=np.array([1, 7, 50]))
    assert lived["held_candles"].tolist() == [1, 7, 20]
    assert lived["exit_reason"].tolist() == ["exit_signal", "exit_signal", "max_duration"]
    # Entered at p, left at q, a short: 1 - q (1 + f) / (p (1 - f)).
    p, q, f = tape.open[10], tape.open[17], rules.fee_ratio
    assert lived["profit_ratio"].iloc[1] == pytest.approx(1 - q * (1 + f) / (p * (1 - f)))


def test_an_exit_signal_ends_its_own_side_at_the_next_open() -> None:
    tape, rules = make_tape(random_candles(4, 300, volatility=0.0001)), make_rules(max_trade_duration_candles=50)
    nowhere = np.zeros(300, dtype=bool)
    at_twenty = nowhere.copy()
    at_twenty[20] = True
    signals = {PAIR: ExitSignals(at_twenty, nowhere)}
    longs, shorts = (entries_of(tape, rules, [15], short=short) for short in (False, True))
    lived = [relive(of, {PAIR: tape}, {PAIR: rules}, signals=signals) for of in (longs, shorts)]
    assert [one["held_candles"].item() for one in lived] == [6, 50]
    # A signal from before the entry does not count at the entry's own open.
    late = relive(entries_of(tape, rules, [21]), {PAIR: tape}, {PAIR: rules}, signals=signals)
    assert late["held_candles"].item() == 50


def test_the_days_of_a_trade_add_up_to_it_and_are_marked_at_midnight() -> None:
    # From the afternoon of one day to the morning of the day after the next.
    candles = random_candles(5, 600, volatility=0.0005).assign(funding=0.0)
    candles.loc[200, "funding"] = 0.3
    tape, rules = make_tape(candles), make_rules(stoploss_ratio=0.9, max_trade_duration_candles=500)
    trade = relive(
        entries_of(tape, rules, [150], leverage=2.0), {PAIR: tape}, {PAIR: rules}, leave_after=np.array([450])
    )
    days = daily_profits(trade, {PAIR: tape}, {PAIR: rules})
    first = int(tape.dates_ms[0]) // DAY_MS
    assert days["day"].tolist() == [first, first + 1, first + 2]
    assert days["profit_ratio"].sum() == pytest.approx(trade["profit_ratio"].item(), abs=1e-15)
    assert days["profit"].sum() == pytest.approx(trade["profit"].item(), abs=1e-12)
    # Midnight is candle 288: 2 * ((q (1 - f) - F) / (p (1 + f)) - 1).
    p, q, f = tape.open[150], tape.open[288], rules.fee_ratio
    assert days["profit_ratio"].iloc[0] == pytest.approx(2 * ((q * (1 - f) - 0.3) / (p * (1 + f)) - 1))


def test_no_entries_are_no_trades() -> None:
    tape, rules = make_tape(random_candles(6, 50)), make_rules()
    nothing = trades_of_freqtrade(pd.DataFrame(), TIMEFRAME_MS)
    assert relive(nothing, {PAIR: tape}, {PAIR: rules}).empty
    assert daily_profits(nothing, {PAIR: tape}, {PAIR: rules}).empty
