"""What the rules refuse, and what holds whatever the candles and the actions.

That single trades are freqtrade's is the matter of tests/parity.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import candle_table, make_rules, make_tape, random_candles, tape_candles
from hypothesis import given, settings
from hypothesis import strategies as st

from mtfscalper.trading.account import FLAT, Account, Candle, ExitReason, Fill
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.rules import EQUITY_FLOOR, force_exit, mark, step
from mtfscalper.trading.trading_rules import RulesError, TradingRules


def play(candles: list[Candle], rules: TradingRules, actions: list[int]) -> tuple[list[tuple[int, Fill]], Account]:
    """The candle and the fill of every exit, and the account in the end."""
    account, exits = FLAT, []
    for k, (candle, action) in enumerate(zip(candles[:-1], actions, strict=False)):
        account, fill = step(SCALAR, rules, account, action, candle)
        if fill.exited:
            exits.append((k, fill))
    account, fill = force_exit(SCALAR, rules, account, candles[-1])
    if fill.exited:
        exits.append((len(candles) - 1, fill))
    return exits, account


def market(seed: int, n: int = 120) -> list[Candle]:
    return tape_candles(make_tape(random_candles(seed, n)))


# Refusals


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fee_ratio", -0.001),
        ("fee_ratio", 0.1),
        ("stoploss_ratio", 0.0),
        ("stoploss_ratio", 1.5),
        ("leverage_long", 0.5),
        ("leverage_short", 0.0),
        ("stake_ratio", 0.0),
        ("stake_ratio", 1.2),
        ("fixed_stake_ratio", 0.0),
        ("fixed_stake_ratio", 1.1),
        ("max_trade_duration_candles", 0),
        ("timeframe_minutes", 0),
        ("minimal_roi", ((10, 0.01), (0, 0.02))),
    ],
)
def test_rules_that_cannot_be_traded_are_refused_by_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(RulesError) as caught:
        make_rules(**{name: value})
    assert f"{name} is {value!r}; accepted: " in str(caught.value)
    assert "remedy: " in str(caught.value)


# Stakes


def test_a_fixed_stake_does_not_compound_and_enters_no_more_once_the_equity_is_too_small_for_it() -> None:
    rules = make_rules(fee_ratio=0.0, stake_ratio=0.9, available_ratio=0.9, fixed_stake_ratio=0.8)
    entry, fall = Candle(100.0, 100.0, 100.0, 100.0, 0.0, 100.0), Candle(100.0, 100.0, 95.0, 95.0, 0.0, 100.0)
    exits, account = play([entry, fall] * 20, rules, [Action.LONG_ENTER, 0] * 20)
    # Each stop loses 2 % of 0.8. After seven 0.9 x 0.888 = 0.7992 is less than 0.8.
    assert len(exits) == 7
    assert account.equity == pytest.approx(1 - 7 * 0.016)
    assert account.side == 0


def test_an_equity_that_is_lost_enters_no_more() -> None:
    rules = make_rules()
    candle = Candle(100.0, 100.0, 100.0, 100.0, 0.0, 100.0)
    lost, fill = step(SCALAR, rules, FLAT._replace(equity=EQUITY_FLOOR), Action.LONG_ENTER, candle)
    assert (lost.side, fill.entered) == (0, False)


# Invariants


seeds = st.integers(0, 10_000)
# Long scripts by their seed: drawn one by one, most would do nothing.
scripts = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).integers(0, 5, 120).tolist())
leverages = st.sampled_from([1.0, 2.0, 5.0])


@settings(max_examples=40)
@given(seed=seeds, actions=scripts, leverage=leverages, fee=st.floats(0, 0.01), extra=st.floats(1e-6, 0.01))
def test_a_higher_fee_never_gives_more_profit_for_the_same_actions(
    seed: int, actions: list[int], leverage: float, fee: float, extra: float
) -> None:
    # Without ROI, whose rate depends on the fee, and with it the candle of the exit.
    both = {"leverage_long": leverage, "leverage_short": leverage, "max_trade_duration_candles": 10}
    cheap, rich = play(market(seed), make_rules(fee_ratio=fee, **both), actions)
    dear, poor = play(market(seed), make_rules(fee_ratio=fee + extra, **both), actions)
    assert [k for k, _ in cheap] == [k for k, _ in dear]
    assert cheap
    assert all(a.profit_ratio > b.profit_ratio for (_, a), (_, b) in zip(cheap, dear, strict=True))
    assert rich.equity > poor.equity or poor.equity == EQUITY_FLOOR


@given(
    enter=st.sampled_from([(Action.LONG_ENTER, Action.LONG_EXIT), (Action.SHORT_ENTER, Action.SHORT_EXIT)]),
    rate=st.integers(100, 10_000_000).map(lambda ticks: ticks / 100),
    fee=st.floats(0, 0.01),
    leverage=leverages,
    stake=st.floats(0.01, 1),
)
def test_entering_and_leaving_without_a_price_move_loses_exactly_the_fees(
    enter: tuple[Action, Action], rate: float, fee: float, leverage: float, stake: float
) -> None:
    still = Candle(rate, rate, rate, rate, 0.0, 100.0)
    rules = make_rules(
        fee_ratio=fee, leverage_long=leverage, leverage_short=leverage, stake_ratio=stake, stoploss_ratio=0.5
    )
    ((_, fill),), account = play([still] * 4, rules, [*enter, 0])
    assert fill.reason == ExitReason.EXIT_SIGNAL
    # A fee on each side of the leveraged stake.
    assert account.equity == pytest.approx(1 - 2 * fee * leverage * stake, abs=1e-13)


@settings(max_examples=40)
@given(seed=seeds, actions=scripts, leverage=leverages, stake=st.floats(0.1, 1))
def test_equity_is_what_the_trades_one_after_the_other_made_of_it(
    seed: int, actions: list[int], leverage: float, stake: float
) -> None:
    rules = make_rules(leverage_long=leverage, leverage_short=leverage, stake_ratio=stake, minimal_roi=((0, 0.01),))
    exits, account = play(market(seed), rules, actions)
    # The ratio refers to the stake with the fee of its entry added (long) or taken off (short).
    growth = [1 + stake * fill.profit_ratio * (1 + fill.side * rules.fee_ratio) for _, fill in exits]
    assert account.equity == pytest.approx(float(np.prod(growth)), rel=1e-12)


@settings(max_examples=40)
@given(seed=seeds, actions=scripts, leverage=leverages, only=st.booleans(), positive=st.sampled_from([None, 0.004]))
def test_no_trade_is_filled_at_a_rate_that_its_candle_did_not_see(
    seed: int, actions: list[int], leverage: float, only: bool, positive: float | None
) -> None:
    rules = make_rules(
        leverage_long=leverage,
        leverage_short=leverage,
        minimal_roi=((0, 0.02), (20, 0.005)),
        trailing_stop=True,
        trailing_stop_positive=positive,
        trailing_stop_positive_offset=0.006,
        trailing_only_offset_is_reached=only,
    )
    candles = market(seed)
    exits, _ = play(candles, rules, actions)
    assert exits
    for k, fill in exits:
        assert candles[k].low <= fill.close_rate <= candles[k].high
        assert fill.open_rate == candles[k - int(fill.held_candles)].open


def dyadic(ticks: st.SearchStrategy[int]) -> st.SearchStrategy[float]:
    """Rates in 64ths: sums, differences and the products below are exact in binary."""
    return ticks.map(lambda n: n / 64)


@st.composite
def dyadic_candles(draw: st.DrawFn) -> list[Candle]:
    candles = [Candle(128.0, 128.0, 128.0, 128.0, 0.0, 64.0)]
    for _ in range(12):
        opened = candles[-1].close + draw(dyadic(st.integers(-40, 40)))
        close = opened + draw(dyadic(st.integers(-80, 80)))
        high = max(opened, close) + draw(dyadic(st.integers(0, 60)))
        low = min(opened, close) - draw(dyadic(st.integers(0, 60)))
        candles.append(Candle(opened, high, low, close, 0.0, 64.0))
    return candles


@given(candles=dyadic_candles(), leave=st.integers(1, 10), leverage=st.sampled_from([1.0, 2.0, 4.0]))
def test_without_fees_a_short_in_a_mirrored_market_is_the_long(
    candles: list[Candle], leave: int, leverage: float
) -> None:
    mirrored = [
        Candle(256 - candle.open, 256 - candle.low, 256 - candle.high, 256 - candle.close, 0.0, 64.0)
        for candle in candles
    ]
    rules = make_rules(
        fee_ratio=0.0,
        leverage_long=leverage,
        leverage_short=leverage,
        stoploss_ratio=1 / 32,
        minimal_roi=((0, 1 / 16), (20, 1 / 64)),
        max_trade_duration_candles=8,
    )
    long_script, short_script = [int(Action.LONG_ENTER)] + [0] * 11, [int(Action.SHORT_ENTER)] + [0] * 11
    long_script[leave], short_script[leave] = Action.LONG_EXIT, Action.SHORT_EXIT
    ((long_candle, long),), rich = play(candles, rules, long_script)
    ((short_candle, short),), same = play(mirrored, rules, short_script)
    assert (long_candle, long.reason, long.held_candles) == (short_candle, short.reason, short.held_candles)
    assert long.close_rate == 256 - short.close_rate
    assert long.profit_ratio == short.profit_ratio
    assert rich.equity == same.equity


# Equity


def test_equity_marks_an_open_trade_as_if_it_were_closed() -> None:
    rules = make_rules(stake_ratio=0.5, leverage_long=2.0)
    candles = tape_candles(make_tape(candle_table(*[(100.0, 100.2, 99.9, 100.1)] * 3)))
    account, _ = step(SCALAR, rules, FLAT, Action.LONG_ENTER, candles[0])
    _, _, marked = mark(SCALAR, rules, account, candles[1].open)
    closed, _ = step(SCALAR, rules, account, Action.LONG_EXIT, candles[1])
    assert account.equity == 1
    assert marked == closed.equity
    # 0.5 x 2 x 2 x 0.0005
    assert closed.equity == pytest.approx(1 - 0.001)


def test_a_gap_that_wipes_out_the_stake_leaves_a_floor_of_equity() -> None:
    rules = make_rules(leverage_long=5.0)
    crash = pd.concat([candle_table((100.0, 100.2, 99.9, 100.1)), candle_table((60.0, 61.0, 59.0, 60.0))])
    candles = tape_candles(make_tape(crash.assign(date=pd.date_range("2024-01-10", periods=2, freq="5min", tz="UTC"))))
    account, _ = step(SCALAR, rules, FLAT, Action.LONG_ENTER, candles[0])
    account, fill = step(SCALAR, rules, account, Action.NEUTRAL, candles[1])
    assert fill.reason == ExitReason.STOP_LOSS
    assert fill.profit_ratio < -1
    assert account.equity == EQUITY_FLOOR
