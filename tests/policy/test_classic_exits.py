"""Entries re-lived alone end as the rules end them, whatever else happens at the same time."""

from dataclasses import replace

import numpy as np
import pytest
from builders import tape_candles
from random_markets import RULES, env_settings, random_policy, random_tape

from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.policy.classic_exits import Entry, relive
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.trading.account import FLAT
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.rules import force_exit, step
from mtfscalper.trading.trades import ClosedTrade, closed_trade
from mtfscalper.trading.trading_rules import TradingRules

N = 900


def one_by_one(tape: MarketTape, rules: TradingRules, entry: Entry) -> ClosedTrade:
    """One entry, one candle after the other, in Python's numbers."""
    candles, account, action = tape_candles(tape), FLAT, Action.SHORT_ENTER if entry.is_short else Action.LONG_ENTER
    candle = int(np.searchsorted(tape.dates_ms, entry.open_ms))
    [last] = [stop - 1 for start, stop in tape.segments if start <= candle < stop]
    while True:
        move = force_exit if candle == last else step
        arguments = () if candle == last else (action,)
        account, fill = move(SCALAR, rules, account, *arguments, candles[candle])
        if fill.exited:
            return closed_trade(tape.pair, fill, int(tape.dates_ms[candle]), tape.timeframe_ms)
        candle, action = candle + 1, Action.NEUTRAL


@pytest.mark.parametrize("trails", [False, True])
def test_every_entry_ends_as_it_would_alone(trails: bool) -> None:
    tape = random_tape(N, gaps=(400,))
    rules = replace(RULES, trailing_stop=trails)
    own = np.random.default_rng(3).random((2, N)) < 0.02
    tape = replace(tape, long_exit=own[0], short_exit=own[1])
    playable = [at for at in range(N) if at not in (399, N - 1)]
    entries = [Entry(int(tape.dates_ms[at]), bool(at % 2)) for at in playable]
    trades = relive(tape, rules, entries)
    chosen = range(0, len(entries), 17)
    assert [trades[at] for at in chosen] == [one_by_one(tape, rules, entries[at]) for at in chosen]
    reasons = {trade.exit_reason for trade in trades}
    assert reasons >= {
        "exit_signal",
        "max_duration",
        "roi",
        "force_exit",
        "trailing_stop_loss" if trails else "stop_loss",
    }
    assert [trade.open_ms for trade in trades] == [entry.open_ms for entry in entries]
    assert [trade.is_short for trade in trades] == [entry.is_short for entry in entries]


def test_a_policy_that_never_leaves_makes_the_trades_of_its_entries_with_classic_exits() -> None:
    tape, settings, policy = random_tape(N), env_settings("classic"), random_policy()
    decider = PolicyDecider(policy, tape.features)
    result = closed_loop.run(decider, tape, settings, 0, N - 1, last_candle_closes=True, policy_exits=False)
    assert len(result.trades) > 20
    assert (result.exit_probability > 0.5).sum() > 20
    assert "exit_signal" not in {trade.exit_reason for trade in result.trades}
    entries = [Entry(trade.open_ms, trade.is_short) for trade in result.trades]
    assert relive(tape, settings.rules, entries) == list(result.trades)
    leaving = closed_loop.run(decider, tape, settings, 0, N - 1, last_candle_closes=True)
    assert "exit_signal" in {trade.exit_reason for trade in leaving.trades}


def test_overlapping_and_repeated_entries_are_all_lived() -> None:
    tape = random_tape(200)
    entry = Entry(int(tape.dates_ms[50]), False)
    [first, again, other] = relive(tape, RULES, [entry, entry, Entry(int(tape.dates_ms[51]), True)])
    assert first == again != other
    assert relive(tape, RULES, []) == []


@pytest.mark.parametrize(
    ("at", "shift", "told"),
    [(399, 0, "no candle of it"), (799, 0, "no candle of it"), (50, 1, "no candle of it"), (799, 10**12, "no candle")],
)
def test_what_was_not_entered_on_the_tape_is_refused(at: int, shift: int, told: str) -> None:
    tape = random_tape(800, gaps=(400,))
    with pytest.raises(ValueError, match=told):
        relive(tape, RULES, [Entry(int(tape.dates_ms[at]) + shift, False)])


def test_a_short_that_the_rules_forbid_is_refused() -> None:
    tape = random_tape(100)
    with pytest.raises(ValueError, match="let none be entered"):
        relive(tape, replace(RULES, can_short=False), [Entry(int(tape.dates_ms[50]), True)])
