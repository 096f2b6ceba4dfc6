"""The account of an open trade is the environment's, candle by candle, and knows nothing of the future."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from random_markets import RULES, env_settings, random_policy, random_tape

from mtfscalper.freqai.open_trade import OpenTrade, PriceHistory
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.trading import episode
from mtfscalper.trading.account import Account

N = 1200


def history_of(tape: MarketTape) -> PriceHistory:
    arrays = tape.dates_ms, tape.open, tape.funding
    return PriceHistory.from_arrays(tape.timeframe_ms, *arrays, float(tape.close[-1]), tape.funding_within)


def open_trade(is_short: bool, open_ms: int, open_rate: float) -> OpenTrade:
    trade = SimpleNamespace(
        pair="BTC/USDT:USDT",
        is_short=is_short,
        open_date_utc=datetime.fromtimestamp(open_ms / 1000, UTC),
        open_rate=open_rate,
        leverage=RULES.leverage_short if is_short else RULES.leverage_long,
    )
    return OpenTrade(trade, RULES)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_short", [False, True])
def test_the_account_of_a_trade_is_the_one_that_the_rules_hold(is_short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tape, policy = random_tape(N), random_policy()
    # Funding of a size that shows, and at any candle.
    due = np.random.default_rng(5).normal(0, 1, (2, N)) * (np.arange(N) % 5 == 0)
    tape = replace(tape, funding=due[0], funding_within=np.roll(due[1], 2))
    held: dict[int, tuple[float, ...]] = {}

    def advance(xp, scene, state, action):
        account = state.account
        if account.side:
            held[state.candle] = (*account[:3], account.held_candles, account.best_profit, account.funding)
        return episode.advance(xp, scene, state, action)

    monkeypatch.setattr(closed_loop, "advance", advance)
    result = closed_loop.run(PolicyDecider(policy, tape.features), tape, env_settings(), 0, N)
    history = history_of(tape)
    compared = 0
    for trade in result.trades:
        if trade.is_short != is_short:
            continue
        entry, exit_ = (int(np.searchsorted(tape.dates_ms, ms)) for ms in (trade.open_ms, trade.close_ms))
        for row in range(entry + 1, exit_ + 1):
            if row not in held:
                continue
            if row == entry + 1:
                # Somewhere within its candle, as an order of a bot fills.
                followed = open_trade(is_short, trade.open_ms + 61_000, trade.open_rate)
            now = int(tape.dates_ms[row]), float(tape.open[row])
            account, profit = followed.at(history, *now)
            # Asked for the first time as late as this, it is the same.
            assert open_trade(is_short, trade.open_ms, trade.open_rate).at(history, *now) == (account, profit)
            ours = (*account[:3], account.held_candles, account.best_profit, account.funding)
            np.testing.assert_allclose(ours, held[row], rtol=0, atol=1e-12)
            assert profit <= account.best_profit
            compared += 1
    assert compared > 100


def test_nothing_from_this_candle_on_is_read_but_its_open() -> None:
    tape = random_tape(60)
    now = 40
    later = np.arange(60) >= now
    future = replace(tape, open=np.where(later, np.nan, tape.open), funding=np.where(later, np.nan, tape.funding))

    def asked(of: MarketTape) -> tuple[Account, float]:
        trade = open_trade(False, int(tape.dates_ms[20]), float(tape.open[20]))
        return trade.at(history_of(of), int(tape.dates_ms[now]), float(tape.open[now]))

    known = asked(tape)
    assert asked(future) == known
    # The control: a past open is read.
    best = int(np.argmax(tape.open[21:now])) + 21
    other = replace(tape, open=np.where(np.arange(60) == best, 2 * tape.open, tape.open))
    assert asked(other)[0].best_profit > known[0].best_profit


def test_a_trade_can_be_asked_for_an_earlier_candle_again() -> None:
    tape = random_tape(60)
    history = history_of(tape)
    trade = open_trade(True, int(tape.dates_ms[20]), float(tape.open[20]))
    early = trade.at(history, int(tape.dates_ms[25]), float(tape.open[25]))
    trade.at(history, int(tape.dates_ms[45]), float(tape.open[45]))
    assert trade.at(history, int(tape.dates_ms[25]), float(tape.open[25])) == early


def test_a_trade_that_knows_its_funding_is_believed() -> None:
    tape = random_tape(60)
    trade = open_trade(True, int(tape.dates_ms[20]), 1000.0)
    account, profit = trade.at(history_of(tape), int(tape.dates_ms[30]), 1000.0, -50.0)
    assert account.funding == -50.0
    # 50 of 1000, three times leveraged, and the fees.
    assert profit == pytest.approx(-0.15, abs=0.01)


def test_a_trade_older_than_the_history_counts_its_candles_from_its_entry() -> None:
    tape = random_tape(60)
    trade = open_trade(False, int(tape.dates_ms[0]) - 10 * tape.timeframe_ms, 1000.0)
    account, _ = trade.at(history_of(tape), int(tape.dates_ms[-1]) + tape.timeframe_ms, float(tape.close[-1]))
    assert account.held_candles == 70


def test_the_candles_of_a_week_are_counted_from_mondays() -> None:
    """1970 began on a Thursday: a plain division by a week's length would find each entry's candle days too early."""
    week_ms = 7 * 86_400_000
    monday_ms = int(datetime(2024, 9, 2, tzinfo=UTC).timestamp() * 1000)
    dates_ms = [monday_ms + at * week_ms for at in range(4)]
    # Its week opened far above the rate that it was filled at.
    history = PriceHistory(week_ms, dates_ms, [130.0, 110.0, 105.0, 90.0], [0.0] * 4, 90.0)
    # A bot's: filled on a Wednesday, and its first open is the Monday after.
    trade = open_trade(False, monday_ms + 2 * 86_400_000, 100.0)
    held = [trade.at(history, *now)[0].held_candles for now in zip(dates_ms, history.open, strict=True)]
    assert held == [0, 1, 2, 3]
    account, _ = trade.at(history, dates_ms[2], 105.0)
    _, best = trade.at(history, dates_ms[1], 110.0)
    assert account.best_profit == best
