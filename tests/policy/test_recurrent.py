"""A recurrent policy decides outside training with the memory that it has in training."""

from dataclasses import replace

import numpy as np
import pytest
from random_markets import RULES, env_settings, random_tape
from recurrent_policies import Loop, recurrent_model, stateful_loop

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.policy.closed_loop import ClosedLoop, loop_decider
from mtfscalper.policy.inference import decider_for
from mtfscalper.policy.recurrent import Recollection, RecurrentDecider, RecurrentPolicyError
from mtfscalper.trading.account import FLAT
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.observation import observe
from mtfscalper.training.evaluation import play_segments


def assert_same(result: ClosedLoop, expected: Loop, first_row: int) -> None:
    """The loop over the rules decides as stable-baselines3's, and where it decides."""
    assert list(result.trades) == expected.trades
    assert result.equity == expected.equity
    asked = (result.flat.probabilities.any(axis=1) | (result.exit_probability > 0)).nonzero()[0] + first_row
    assert asked.tolist() == list(expected.decisions)
    # The end of the longest duration is written as the exit that it is, whatever the policy says.
    too_long = sum(trade.exit_reason == "max_duration" for trade in result.trades)
    different = sum(result.actions[row - first_row] != action for row, action in expected.decisions.items())
    assert different <= too_long


def remembered(tape: MarketTape, settings: EnvSettings) -> tuple[ClosedLoop, Loop, Loop]:
    """The evaluation of a random policy, the loop to compare it with, and one that drops the memory."""
    model = recurrent_model(tape, settings)
    [(segment, result)] = play_segments(model, tape, settings)
    assert segment.digest() == tape.digest()
    loops = (stateful_loop(model, tape, settings, remembers=remembers) for remembers in (True, False))
    return result, *loops


@pytest.mark.parametrize(("mode", "lookback"), [("agent", 1), ("gated", 3), ("classic", 2)])
def test_an_evaluation_decides_as_the_stateful_loop_over_the_environment(mode: str, lookback: int) -> None:
    tape = random_tape(400)
    result, expected, forgetful = remembered(tape, env_settings(mode, lookback))
    assert len(expected.trades) > 5
    assert_same(result, expected, lookback - 1)
    # The memory decides: without it other trades are made.
    assert forgetful.trades != expected.trades


def test_an_account_that_can_pay_for_no_entry_is_asked_no_more() -> None:
    rules = replace(RULES, fixed_stake_ratio=0.9, stoploss_ratio=0.01, leverage_long=5.0, leverage_short=5.0)
    tape, settings = random_tape(300), env_settings("agent", 2, rules)
    result, expected, _ = remembered(tape, settings)
    assert max(expected.decisions) < 250
    assert_same(result, expected, 1)


def test_the_memory_begins_anew_after_a_gap_as_an_episode_does() -> None:
    rules = replace(RULES, max_trade_duration_candles=5)
    tape, settings = random_tape(300, gaps=(140,)), env_settings("gated", 2, rules)
    # No entry shortly before the gap, so that the account is flat after it.
    before = np.arange(300) // 10 == 13
    tape = replace(tape, long_signal=tape.long_signal & ~before, short_signal=tape.short_signal & ~before)
    model = recurrent_model(tape, settings)
    expected = stateful_loop(model, tape.split()[1], settings)
    result = closed_loop.run(loop_decider(model, tape.features, 2), tape, settings, 1, 299, last_candle_closes=True)
    later = [trade for trade in result.trades if trade.open_ms >= tape.dates_ms[140]]
    assert 3 < len(later) < len(result.trades)
    assert [(one.open_ms, one.close_ms) for one in later] == [(one.open_ms, one.close_ms) for one in expected.trades]


def test_an_answer_is_not_remembered() -> None:
    tape, settings = random_tape(60), env_settings("agent")
    decider = RecurrentDecider(recurrent_model(tape, settings), tape.features, 1)
    recollection = Recollection(decider, tape, settings)
    for row in range(10):
        recollection.flat(row, FLAT)
    seen = observe(SCALAR, settings.rules, settings.view, 10, FLAT, 0.0, True, True)
    first, second = recollection.answer(seen), recollection.answer(seen)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    _, remembered = recollection.flat(10, FLAT)
    np.testing.assert_array_equal(remembered, first.probabilities)
    assert (recollection.answer(seen).probabilities != first.probabilities).any()
    # Handed on, it is the same memory.
    handed_on = Recollection(decider, tape, settings, recollection.memory_at(11), 11)
    np.testing.assert_array_equal(handed_on.flat(11, FLAT)[1], recollection.flat(11, FLAT)[1])
    assert (Recollection(decider, tape, settings, None, 11).flat(11, FLAT)[1] != remembered).any()


def test_a_recurrent_policy_is_not_asked_without_its_memory() -> None:
    tape, settings = random_tape(60), env_settings("agent")
    with pytest.raises(RecurrentPolicyError, match="decides by what it remembers of the candles before"):
        decider_for(recurrent_model(tape, settings), tape.features, 1)
