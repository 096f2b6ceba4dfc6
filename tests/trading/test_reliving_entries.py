"""Entries re-lived alone end as the rules end them, whatever else happens at the same time."""

from dataclasses import replace

import numpy as np
import pytest
from builders import tape_candles
from random_markets import RULES, env_settings, random_policy, random_tape

from mtfscalper.envs.episodes import candles_of
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.trading.account import EXIT_REASON_NAMES, FLAT, ExitReason
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.reliving import Entries, Exits, relive
from mtfscalper.trading.rules import force_exit, step
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.training.guard import with_classic_exits

N = 900


def entries_at(tape: MarketTape, at: list[int]) -> Entries:
    """Longs at even candles, shorts at odd ones."""
    return Entries(np.array(at) % 2 == 1, np.array(at), tape.open[at])


def one_by_one(tape: MarketTape, rules: TradingRules, at: int) -> tuple[int, float, float, int]:
    """One entry, one candle after the other, in Python's numbers."""
    candles, account, action = tape_candles(tape), FLAT, Action.SHORT_ENTER if at % 2 else Action.LONG_ENTER
    last = len(tape) - 1
    while True:
        move = force_exit if at == last else step
        arguments = () if at == last else (action,)
        account, fill = move(SCALAR, rules, account, *arguments, candles[at])
        if fill.exited:
            return at, fill.close_rate, fill.profit_ratio, int(fill.reason)
        at, action = at + 1, Action.NEUTRAL


@pytest.mark.parametrize("trails", [False, True])
def test_every_entry_ends_as_it_would_alone(trails: bool) -> None:
    tape = random_tape(N)
    rules = replace(RULES, trailing_stop=trails)
    own = np.random.default_rng(3).random((2, N)) < 0.02
    tape = replace(tape, long_exit=own[0], short_exit=own[1])
    at = list(range(N - 1))
    ends = relive(entries_at(tape, at), candles_of([tape]), rules)
    chosen = at[::17] + at[-3:]
    assert [tuple(column[one].item() for column in ends) for one in chosen] == [
        one_by_one(tape, rules, one) for one in chosen
    ]
    reasons = {EXIT_REASON_NAMES[ExitReason(reason)] for reason in ends.reason.tolist()}
    assert reasons >= {
        "exit_signal",
        "max_duration",
        "roi",
        "force_exit",
        "trailing_stop_loss" if trails else "stop_loss",
    }


def test_a_policy_that_never_leaves_makes_the_trades_of_its_entries_with_classic_exits() -> None:
    tape, settings, policy = random_tape(N), env_settings("classic"), random_policy()
    decider = PolicyDecider(policy, tape.features)
    result = closed_loop.run(decider, tape, settings, 0, N - 1, last_candle_closes=True, policy_exits=False)
    assert len(result.trades) > 20
    assert (result.exit_probability > 0.5).sum() > 20
    assert "exit_signal" not in {trade.exit_reason for trade in result.trades}
    profits = [trade.profit_ratio for trade in result.trades]
    assert with_classic_exits(tape, settings.rules, result.trades).tolist() == profits
    leaving = closed_loop.run(decider, tape, settings, 0, N - 1, last_candle_closes=True)
    assert "exit_signal" in {trade.exit_reason for trade in leaving.trades}
    assert with_classic_exits(tape, settings.rules, leaving.trades).tolist() != [
        trade.profit_ratio for trade in leaving.trades
    ]


def test_overlapping_and_repeated_entries_are_all_lived() -> None:
    tape = random_tape(200)
    ends = relive(entries_at(tape, [50, 50, 52]), candles_of([tape]), RULES)
    assert [len(set(column[:2].tolist())) for column in ends] == [1] * 4
    assert ends.profit_ratio[0] != ends.profit_ratio[2]


def test_no_entries_are_no_trades() -> None:
    nothing = Entries(np.zeros(0, bool), np.zeros(0, np.int64), np.zeros(0))
    ends = relive(nothing, candles_of([random_tape(100)]), RULES)
    assert [len(column) for column in ends] == [0] * len(Exits._fields)


@pytest.mark.parametrize("at", [-1, 99, 10**6])
def test_an_entry_that_is_not_on_the_candles_is_refused(at: int) -> None:
    tape = random_tape(100)
    entries = Entries(np.array([False]), np.array([at]), np.array([1.0]))
    with pytest.raises(ValueError, match="accepted: candles 0 to 98"):
        relive(entries, candles_of([tape]), RULES)
