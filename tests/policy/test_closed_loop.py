"""A replayed policy makes the trades that the training environment makes, and knows nothing of the future."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import PAIR
from random_markets import RULES, env_settings, random_policy, random_tape

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.policy.closed_loop import ClosedLoop, decidable_rows, flat_decisions
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.policy.network import MaskedActorCriticPolicy
from mtfscalper.trading.account import FLAT, Candle
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.rules import mark, step
from mtfscalper.trading.trades import ClosedTrade

MODES = ("gated", "agent", "classic")
N = 1200


def played(
    tape: MarketTape, settings: EnvSettings, policy: MaskedActorCriticPolicy
) -> tuple[list[list[ClosedTrade]], list[float]]:
    """One episode of the training environment on each segment: its trades and its final equity."""
    env = TradingEnv(tape, settings)
    policy.features_extractor.set_features(tape.features)
    episodes, equities = [], []
    for _ in tape.segments:
        observation, _ = env.reset()
        over = False
        while not over:
            action, _ = policy.predict(observation, deterministic=True)
            observation, _, terminated, truncated, info = env.step(action)
            assert not terminated
            over = truncated
        episodes.append(info["trades"])
        equities.append(info["final_equity"])
    return episodes, equities


def whole(tape: MarketTape, settings: EnvSettings, policy: MaskedActorCriticPolicy) -> ClosedLoop:
    decider = PolicyDecider(policy, tape.features)
    return closed_loop.run(decider, tape, settings, settings.lookback - 1, len(tape) - 1, last_candle_closes=True)


@pytest.mark.parametrize("lookback", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_replay_makes_the_trades_that_the_environment_makes_with_the_same_policy(mode: str, lookback: int) -> None:
    tape, settings = random_tape(N), env_settings(mode, lookback)
    policy = random_policy(lookback)
    [expected], [equity] = played(tape, settings, policy)
    result = whole(tape, settings, policy)
    assert len(expected) > 30
    assert {"exit_signal", "stop_loss", "roi"} <= {trade.exit_reason for trade in expected}
    assert {trade.is_short for trade in expected} == {True, False}
    assert list(result.trades) == expected
    assert result.equity == equity
    assert result.account.side == 0


def test_a_patient_policy_is_closed_by_duration_and_at_the_end_in_both() -> None:
    tape = random_tape(300)
    tape = replace(tape, long_signal=np.arange(300) > 280, short_signal=tape.short_signal & (np.arange(300) < 200))
    settings = env_settings("gated", rules=replace(RULES, stoploss_ratio=0.9, minimal_roi=()))
    policy = random_policy()
    policy.action_net.bias.data[[Action.LONG_EXIT, Action.SHORT_EXIT]] = -1e6
    [expected], [equity] = played(tape, settings, policy)
    result = whole(tape, settings, policy)
    assert {trade.exit_reason for trade in expected} == {"max_duration", "force_exit"}
    assert list(result.trades) == expected
    assert result.equity == equity


@pytest.mark.parametrize("mode", MODES)
def test_gap_free_segments_are_replayed_as_the_environment_plays_them(mode: str) -> None:
    tape, settings = random_tape(N, gaps=(400, 700)), env_settings(mode, 2)
    policy = random_policy(2)
    episodes, equities = played(tape, settings, policy)
    results = [whole(segment, settings, policy) for segment in tape.split()]
    # The environment starts with its second segment.
    for episode, equity, result in zip(episodes, equities, [*results[1:], results[0]], strict=True):
        assert len(episode) > 5
        assert list(result.trades) == episode
        assert result.equity == equity


@pytest.mark.parametrize("mode", MODES)
def test_the_actions_of_a_replay_are_those_that_were_carried_out(mode: str) -> None:
    """Carried out by the rules alone, without a policy, they make the same trades."""
    tape, settings = random_tape(N), env_settings(mode, 3)
    result = closed_loop.run(PolicyDecider(random_policy(3), tape.features), tape, settings, 0, N)
    account, profits = FLAT, []
    for row, action in enumerate(result.actions[: N - 1].tolist()):
        candle = Candle(
            *(
                float(column[row + 1])
                for column in (tape.open, tape.high, tape.low, tape.close, tape.funding, tape.price_scale)
            )
        )
        account, _, _ = mark(SCALAR, settings.rules, account, candle.open)
        account, fill = step(SCALAR, settings.rules, account, action, candle)
        if fill.exited:
            profits.append(fill.profit_ratio)
    assert len(profits) > 30
    assert profits == [trade.profit_ratio for trade in result.trades]
    assert account == result.account


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [37, 300, 601])
def test_an_account_handed_on_continues_as_if_there_had_been_no_cut(mode: str, cut: int) -> None:
    tape, settings = random_tape(N), env_settings(mode, 3)
    decider = PolicyDecider(random_policy(3), tape.features)
    first, last = 10, 900
    at_once = closed_loop.run(decider, tape, settings, first, last)
    before = closed_loop.run(decider, tape, settings, first, cut)
    after = closed_loop.run(decider, tape, settings, cut, last, account=before.account)
    assert len(at_once.trades) > 30
    np.testing.assert_array_equal([*before.actions, *after.actions], at_once.actions)
    np.testing.assert_array_equal([*before.flat.actions, *after.flat.actions], at_once.flat.actions)
    np.testing.assert_allclose(
        np.concatenate([before.flat.probabilities, after.flat.probabilities]), at_once.flat.probabilities, atol=1e-6
    )
    np.testing.assert_allclose([*before.exit_probability, *after.exit_probability], at_once.exit_probability, atol=1e-6)
    assert before.trades + after.trades == at_once.trades
    assert after.account == at_once.account
    assert after.equity == at_once.equity


def test_a_trade_is_open_at_one_of_the_cuts() -> None:
    """Else the test above handed on flat accounts only."""
    tape = random_tape(N)
    for mode in MODES:
        decider = PolicyDecider(random_policy(3), tape.features)
        sides = [closed_loop.run(decider, tape, env_settings(mode, 3), 10, cut).account.side for cut in (37, 300, 601)]
        assert any(sides), mode


@pytest.mark.parametrize("mode", MODES)
def test_candles_after_a_row_change_no_action_up_to_it(mode: str) -> None:
    tape, settings, policy = random_tape(N), env_settings(mode, 3), random_policy(3)
    full = closed_loop.run(PolicyDecider(policy, tape.features), tape, settings, 0, N)
    kinds = set()
    for row in range(20, 290, 9):
        cut = tape.rows(0, row + 1)
        result = closed_loop.run(PolicyDecider(policy, cut.features), cut, settings, 0, row + 1)
        np.testing.assert_array_equal(result.actions[:row], full.actions[:row])
        # A decision inside a trade needs the next open, and nothing else needs it.
        if result.account.side == 0:
            assert result.actions[row] == full.actions[row]
            kinds.add(int(full.actions[row]))
    assert Action.NEUTRAL in kinds
    assert kinds & {Action.LONG_ENTER, Action.SHORT_ENTER}


def test_rows_without_a_whole_lookback_of_usable_features_are_not_decided() -> None:
    usable = np.ones(N, dtype=bool)
    usable[[200, 500, 501]] = False
    tape, settings = random_tape(N, usable=usable), env_settings("agent", 4)
    decidable = decidable_rows(tape, 4)
    expected = [row >= 3 and usable[row - 3 : row + 1].all() for row in range(N)]
    np.testing.assert_array_equal(decidable, expected)
    policy = random_policy(4)
    # It would enter at once, and leave at once.
    policy.action_net.bias.data.copy_(torch.tensor([-1e6, 5.0, 1e6, 0.0, 1e6]))
    result = closed_loop.run(PolicyDecider(policy, tape.features), tape, settings, 0, N)
    assert len(result.trades) > 100
    assert not result.actions[~decidable].any()
    assert not result.exit_probability[~decidable].any()
    # Enter and leave take turns wherever both can be decided.
    assert (result.actions[decidable][:-1] != 0).all()


def test_a_lookback_never_spans_a_gap() -> None:
    tape = random_tape(100, gaps=(40, 42))
    assert decidable_rows(tape, 3).tolist() == [row >= 2 and row not in {40, 41, 42, 43} for row in range(100)]


def test_the_last_candle_closes_an_open_trade_at_its_open_and_only_if_asked() -> None:
    tape = random_tape(200)
    settings = env_settings("agent", rules=replace(RULES, stoploss_ratio=0.9, minimal_roi=()))
    policy = random_policy()
    policy.action_net.bias.data.copy_(torch.tensor([-1e6, 1e6, -2e6, 0.0, -2e6]))
    decider = PolicyDecider(policy, tape.features)
    held = closed_loop.run(decider, tape, settings, 190, 199)
    assert held.account.side == 1
    assert not held.trades
    closed = closed_loop.run(decider, tape, settings, 190, 199, last_candle_closes=True)
    assert closed.account.side == 0
    [trade] = closed.trades
    assert trade.exit_reason == "force_exit"
    assert trade.close_rate == tape.open[199]
    assert trade.close_ms == tape.dates_ms[199]
    assert trade.pair == PAIR
    assert closed.equity == closed.account.equity


@pytest.mark.parametrize("mode", MODES)
def test_flat_decisions_say_what_the_environment_would_do_flat(mode: str) -> None:
    tape, settings, policy = random_tape(N), env_settings(mode, 2), random_policy(2)
    rows = np.arange(1, N)
    flat = flat_decisions(PolicyDecider(policy, tape.features), tape, settings, rows)
    assert flat.actions.shape == (N - 1,)
    signals = tape.long_signal[rows].astype(int) * Action.LONG_ENTER + tape.short_signal[rows] * Action.SHORT_ENTER
    if mode == "classic":
        np.testing.assert_array_equal(flat.actions, signals)
    elif mode == "gated":
        assert set(flat.actions[signals == 0]) == {Action.NEUTRAL}
        assert set(flat.actions[signals == Action.LONG_ENTER]) == {Action.NEUTRAL, Action.LONG_ENTER}
    else:
        assert set(flat.actions[signals == 0]) == {Action.NEUTRAL, Action.LONG_ENTER, Action.SHORT_ENTER}


def test_shorts_are_not_entered_where_the_strategy_cannot_short() -> None:
    tape = random_tape(N)
    for mode in MODES:
        settings = env_settings(mode, rules=replace(RULES, can_short=False))
        result = closed_loop.run(PolicyDecider(random_policy(), tape.features), tape, settings, 0, N)
        assert len(result.trades) > 10
        assert not any(trade.is_short for trade in result.trades)
