"""The trading environment: what Gymnasium asks of it, its clock, its segments, its ends."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium.utils.env_checker
import numpy as np
import pandas as pd
import pytest
import stable_baselines3.common.env_checker
from builders import (
    PAIR,
    TIMEFRAME_MS,
    candle_table,
    make_rules,
    make_settings,
    make_tape,
    random_candles,
)

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.market.tape import MarketTape, TapeError
from mtfscalper.trading.actions import Action
from mtfscalper.trading.observation import Observation
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.trading.trades import ClosedTrade

ENTRY_MODES = ("classic", "gated", "agent")
QUIET = (100.0, 100.2, 99.8, 100.01)


def market(seed: int = 1, n: int = 300) -> MarketTape:
    signals = np.arange(n) % 9 == 0
    return make_tape(random_candles(seed, n), signals, np.roll(signals, 4))


def quiet_tape(n: int, long_at: tuple[int, ...] = (), short_at: tuple[int, ...] = ()) -> MarketTape:
    """Candles on which no stop is hit, with signals at the given rows."""
    rows = np.arange(n)
    return make_tape(candle_table(*[QUIET] * n), np.isin(rows, long_at), np.isin(rows, short_at))


def fields(observation: np.ndarray) -> dict[str, float]:
    return Observation(*observation.tolist())._asdict()


def episode(env: TradingEnv, choose: Callable[[], int], seed: int | None = None) -> list[Any]:
    """Every observation and step of an episode, as plain values."""
    observation, info = env.reset(seed=seed)
    seen: list[Any] = [(observation.tolist(), info)]
    while True:
        observation, reward, terminated, truncated, info = env.step(np.int64(choose()))
        seen.append((observation.tolist(), reward, terminated, truncated, info))
        if terminated or truncated:
            return seen


def trades_to_the_end(env: TradingEnv) -> list[ClosedTrade]:
    """Hold and wait to the end of the episode, which tells of its trades."""
    over = False
    while not over:
        *_, over, info = env.step(np.int64(Action.NEUTRAL))
    return info["trades"]


def random_choice(env: TradingEnv, seed: int) -> Callable[[], int]:
    rng = np.random.default_rng(seed)
    return lambda: int(rng.choice(np.flatnonzero(env.action_masks())))


# Gymnasium and stable-baselines3


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_the_environment_checkers_find_nothing_to_warn_about(entry_mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stable_baselines3.common.env_checker.check_env(TradingEnv(market(), make_settings(entry_mode)))
        # There is nothing to render, and no id under which to ask for it.
        gymnasium.utils.env_checker.check_env(
            TradingEnv(market(), make_settings(entry_mode)).unwrapped, skip_render_check=True
        )


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_observations_of_whole_episodes_lie_in_the_space(entry_mode: str) -> None:
    env = TradingEnv(market(), make_settings(entry_mode, leverage_long=5.0, leverage_short=5.0))
    for observation, *_ in episode(env, random_choice(env, 0)):
        assert env.observation_space.contains(np.array(observation, dtype=np.float32))


def test_without_state_info_no_environment_shows_more_than_the_side() -> None:
    settings = replace(make_settings("agent"), state_info=False)
    env, batch = TradingEnv(market(), settings), BatchedTradingEnv(market(), settings, 2)
    choose = random_choice(env, 0)
    batch.seed(0)
    batch.reset()
    sides = set()
    for observation, *_ in episode(env, choose):
        sides.add(observation[1])
        assert observation[2:5] == [0, 0, 0]
    assert sides == {-1, 0, 1}
    for action in (1, 0, 0, 2, 3, 0):
        observations, *_ = batch.step(np.array([action, action]))
        assert not observations[:, 2:5].any()


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_a_seed_gives_the_same_episode_twice(entry_mode: str) -> None:
    env = TradingEnv(market(), make_settings(entry_mode))
    first = episode(env, random_choice(env, 5), seed=11)
    assert episode(env, random_choice(env, 5), seed=11) == first
    assert first[-1][-1]["trades"]


def test_another_seed_starts_at_another_candle() -> None:
    env = TradingEnv(market(), make_settings())
    starts = {float(env.reset(seed=seed)[0][0]) for seed in range(10)}
    assert len(starts) > 5


def test_without_a_seed_episodes_start_at_the_first_candle_that_can_be_decided() -> None:
    env = TradingEnv(market(), make_settings(lookback=7))
    env.reset(seed=3)
    assert [float(env.reset()[0][0]) for _ in range(3)] == [6, 6, 6]


def test_random_starts_differ_from_episode_to_episode() -> None:
    env = TradingEnv(market(), make_settings(random_start=True))
    env.reset(seed=3)
    assert len({float(env.reset()[0][0]) for _ in range(10)}) > 5


# The clock


def test_a_decision_sees_the_last_closed_candle_and_fills_at_the_next_open() -> None:
    tape = market(seed=4)
    env = TradingEnv(tape, make_settings("agent", lookback=5, stoploss_ratio=0.5))
    observation, _ = env.reset()
    # Five candles have closed.
    assert fields(observation)["row"] == 4
    observation, *_ = env.step(Action.LONG_ENTER)
    assert fields(observation)["row"] == 5
    env.step(Action.LONG_EXIT)
    (trade,) = trades_to_the_end(env)
    assert (trade.pair, trade.is_short, trade.exit_reason) == (PAIR, False, "exit_signal")
    assert (trade.open_ms, trade.open_rate) == (tape.dates_ms[5], tape.open[5])
    assert (trade.close_ms, trade.close_rate) == (tape.dates_ms[6], tape.open[6])


def test_the_observation_after_an_entry_shows_the_trade_at_the_next_open() -> None:
    candles = candle_table(*[(100.0, 101.5, 99.8, 101.0)] * 2, *[(101.0, 101.2, 100.8, 101.01)] * 3)
    env = TradingEnv(make_tape(candles), make_settings("agent"))
    env.reset()
    observation, reward, *_ = env.step(Action.LONG_ENTER)
    # (101 x 0.9995 / (100 x 1.0005) - 1) / 0.025 = 0.0089905 / 0.025; held: entry candle of 96
    seen = fields(observation)
    assert seen["side"] == 1
    assert seen["profit"] == seen["best_profit"] == pytest.approx(0.359620, abs=1e-6)
    assert seen["held"] == pytest.approx(1 / 96)
    # Equity grew by the profit's share of the stake: 0.0089905 x 1.0005
    assert reward == pytest.approx(math.log(1.008995), abs=1e-8)


def test_the_stop_of_the_entry_candle_is_tested_before_anything_is_decided() -> None:
    candles = candle_table(QUIET, (100.0, 100.1, 95.0, 96.0), *[(96.0, 96.1, 95.9, 96.01)] * 3)
    env = TradingEnv(make_tape(candles), make_settings("agent"))
    env.reset()
    observation, *_ = env.step(Action.LONG_ENTER)
    assert fields(observation) == pytest.approx(
        {"row": 1} | dict.fromkeys(Observation._fields[1:5], 0) | {"long_permitted": 1, "short_permitted": 1}
    )
    (trade,) = trades_to_the_end(env)
    assert (trade.exit_reason, trade.open_ms) == ("stop_loss", trade.close_ms)


def test_gated_mode_asks_flat_accounts_at_signals_and_open_trades_at_every_candle() -> None:
    env = TradingEnv(quiet_tape(40, long_at=(5, 20), short_at=(12,)), make_settings("gated"))
    ticks = [fields(env.reset()[0])["row"]]
    # Decline at 5, enter short at 12, hold twice, leave: the next thing to decide is at 20.
    for action in (Action.NEUTRAL, Action.SHORT_ENTER, Action.NEUTRAL, Action.NEUTRAL, Action.SHORT_EXIT):
        observation, *_ = env.step(action)
        ticks.append(fields(observation)["row"])
    assert ticks == [5, 12, 13, 14, 15, 20]


def test_gated_mode_shows_and_permits_only_the_side_of_the_signal() -> None:
    env = TradingEnv(quiet_tape(40, long_at=(5,), short_at=(12,)), make_settings("gated"))
    observation, _ = env.reset()
    assert (fields(observation)["long_permitted"], fields(observation)["short_permitted"]) == (1, 0)
    assert np.flatnonzero(env.action_masks()).tolist() == [Action.NEUTRAL, Action.LONG_ENTER]
    observation, *_ = env.step(Action.NEUTRAL)
    assert (fields(observation)["long_permitted"], fields(observation)["short_permitted"]) == (0, 1)
    assert np.flatnonzero(env.action_masks()).tolist() == [Action.NEUTRAL, Action.SHORT_ENTER]


def test_gated_mode_never_enters_without_a_signal_whatever_the_action() -> None:
    tape = quiet_tape(40, long_at=(5,))
    env = TradingEnv(tape, make_settings("gated"))
    env.reset()
    # A short is not what is permitted here; nothing else is, to the end.
    *_, terminated, truncated, info = env.step(Action.SHORT_ENTER)
    assert (terminated, truncated) == (False, True)
    assert info["trades"] == []
    assert info["final_equity"] == 1


def test_classic_mode_enters_by_itself_and_asks_from_the_candle_after_the_entry() -> None:
    tape = quiet_tape(40, long_at=(5,), short_at=(20,))
    env = TradingEnv(tape, make_settings("classic"))
    observation, _ = env.reset()
    assert (fields(observation)["row"], fields(observation)["side"]) == (6, 1)
    assert np.flatnonzero(env.action_masks()).tolist() == [Action.NEUTRAL, Action.LONG_EXIT]
    observation, *_ = env.step(Action.LONG_EXIT)
    # The next signal has entered as well.
    assert (fields(observation)["row"], fields(observation)["side"]) == (21, -1)
    assert [trade.open_ms for trade in trades_to_the_end(env)] == [tape.dates_ms[6], tape.dates_ms[21]]


def test_classic_mode_hands_over_the_reward_of_what_happened_before_the_first_decision() -> None:
    env = TradingEnv(quiet_tape(40, long_at=(5,)), make_settings("classic"))
    env.reset()
    _, reward, *_, info = env.step(Action.LONG_EXIT)
    # Entering and leaving at 100: both fees.
    assert reward == pytest.approx(math.log(1 - 2 * 0.0005))
    assert info["final_equity"] == pytest.approx(1 - 2 * 0.0005)


def test_skipped_candles_are_marked_to_market_in_the_step_that_skips_them() -> None:
    crash = candle_table(*[QUIET] * 7, (97.0, 97.2, 96.8, 97.0), *[(97.0, 97.2, 96.8, 97.01)] * 20)
    env = TradingEnv(make_tape(crash, np.arange(28) == 5), make_settings("gated"))
    env.reset()
    observation, reward, *_ = env.step(Action.LONG_ENTER)
    assert fields(observation)["side"] == 1
    _, fall, _, truncated, info = env.step(Action.NEUTRAL)
    assert truncated
    assert info["trades"][0].exit_reason == "stop_loss"
    # Gapped over the stop, filled at 97.
    assert reward + fall == pytest.approx(math.log(1 + (97 * 0.9995 / 100.05 - 1) * 1.0005))


# Segments and ends


def gapped_tape() -> MarketTape:
    """Three runs of candles, each on its own level of price."""
    parts = []
    for level, (first, n) in enumerate([(0, 60), (100, 40), (200, 80)]):
        start = pd.Timestamp("2024-01-10", tz="UTC") + pd.Timedelta(minutes=5 * first)
        part = random_candles(level, n, rate=100.0 * (level + 1), volatility=0.001)
        parts.append(part.assign(date=pd.date_range(start, periods=n, freq="5min")))
    candles = pd.concat(parts, ignore_index=True)
    return make_tape(candles, np.arange(180) % 6 == 0, np.arange(180) % 6 == 3)


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_an_episode_never_crosses_a_gap(entry_mode: str) -> None:
    tape = gapped_tape()
    assert tape.segments == ((0, 60), (60, 100), (100, 180))
    env = TradingEnv(tape, make_settings(entry_mode, lookback=4))
    visited = set()
    for seed in (None, None, None, *range(20)):
        steps = episode(env, random_choice(env, 0), seed=seed)
        ticks = np.array([observation[0] for observation, *_ in steps])
        ((start, stop),) = [(a, b) for a, b in tape.segments if a <= ticks[0] < b]
        # The whole lookback of the first decision lies in the segment, and the last open is that of its last candle.
        assert ticks[0] >= start + 4 - 1
        assert ticks[-1] == stop - 2
        for *_, info in steps:
            for trade in info.get("trades", []):
                assert tape.dates_ms[start] <= trade.open_ms <= trade.close_ms <= tape.dates_ms[stop - 1]
                assert trade.profit_ratio > -0.1
        visited.add(start)
    assert visited == {0, 60, 100}


def test_without_a_seed_episodes_take_the_segments_in_turn() -> None:
    env = TradingEnv(gapped_tape(), make_settings("agent"))
    starts = [float(env.reset()[0][0]) for _ in range(6)]
    assert sorted(starts[:3]) == [0, 60, 100]
    assert starts[3:] == starts[:3]


def test_the_end_of_the_candles_truncates_and_closes_the_position_at_the_last_open() -> None:
    tape = quiet_tape(12)
    env = TradingEnv(tape, make_settings("agent"))
    env.reset()
    env.step(Action.SHORT_ENTER)
    steps = [env.step(Action.NEUTRAL) for _ in range(9)]
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in steps] == [(False, False)] * 8 + [
        (False, True)
    ]
    info = steps[-1][-1]
    (trade,) = info["trades"]
    assert (trade.exit_reason, trade.close_ms, trade.close_rate) == ("force_exit", tape.dates_ms[-1], tape.open[-1])
    assert info["final_equity"] == pytest.approx(1 - 2 * 0.0005)
    assert fields(steps[-1][0])["side"] == 0


def test_the_last_candle_tests_the_stop_as_the_backtester_does() -> None:
    candles = candle_table(*[QUIET] * 5, (100.0, 100.1, 97.0, 97.5))
    env = TradingEnv(make_tape(candles), make_settings("agent"))
    env.reset()
    env.step(Action.LONG_ENTER)
    for _ in range(3):
        *_, info = env.step(Action.NEUTRAL)
    assert [(trade.exit_reason, trade.close_rate) for trade in info["trades"]] == [("stop_loss", 98.0)]


def test_losing_the_largest_drawdown_terminates() -> None:
    # One per cent down a candle, five times leveraged, without a stop before -90 %.
    opens = np.round(100 * 0.99 ** np.arange(40), 2)
    candles = candle_table(*[(rate, rate + 0.1, rate - 1.1, rate - 1.0) for rate in opens])
    settings = make_settings("agent", leverage_long=5.0, stoploss_ratio=0.9, max_drawdown_ratio=0.2)
    env = TradingEnv(make_tape(candles), settings)
    env.reset()
    rewards, terminated, truncated = [], False, False
    action = Action.LONG_ENTER
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        action = Action.NEUTRAL
    assert (terminated, truncated) == (True, False)
    # 0.5 % of fees and 5 % of 100, of 99, of 98.01, of 97.03: 1 - 0.005 - 0.05 x 3.9404 < 0.8, and not a candle before
    assert len(rewards) == 4
    assert 0.75 < info["final_equity"] < 0.8
    assert sum(rewards) == pytest.approx(math.log(info["final_equity"]))


def test_drawdown_is_counted_from_the_peak() -> None:
    rising, falling = [100.0, 102.0, 104.0, 106.0, 108.0], [106.0, 104.0, 102.0, 101.0, 100.0]
    opens = [100.0, *rising, *falling, 100.0]
    candles = candle_table(*[(rate, rate + 0.1, rate - 0.1, rate + 0.01) for rate in opens])
    env = TradingEnv(make_tape(candles), make_settings("agent", max_drawdown_ratio=0.05, stoploss_ratio=0.5))
    env.reset()
    env.step(Action.LONG_ENTER)
    steps = [env.step(Action.NEUTRAL) for _ in range(6)]
    # 108 x 0.95 = 102.6: the open at 102 ends it, in profit still.
    assert [terminated for _, _, terminated, *_ in steps] == [False] * 5 + [True]
    assert steps[-1][-1]["final_equity"] > 1


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_info_at_the_end_agrees_with_the_trades_and_the_rewards(entry_mode: str) -> None:
    reward = RewardSettings(equity_weight=2.0, duration_weight=0.1, idle_weight=0.01, profit_quality_weight=0.5)
    settings = EnvSettings(make_rules(leverage_long=3.0), reward, entry_mode, lookback=1, record_trades=True)
    env = TradingEnv(market(seed=8), settings)
    steps = episode(env, random_choice(env, 3))[1:]
    assert all(info == {} for *_, info in steps[:-1])
    info = steps[-1][-1]
    trades = info["trades"]
    assert len(trades) > 10
    growth = [1 + trade.profit_ratio * (1 + (-1 if trade.is_short else 1) * 0.0005) for trade in trades]
    assert info["final_equity"] == pytest.approx(float(np.prod(growth)))
    assert set(info["reward_terms"]) == {"equity", "duration", "idle", "profit_quality"}
    assert info["reward_terms"]["equity"] == pytest.approx(2 * math.log(info["final_equity"]))
    assert sum(info["reward_terms"].values()) == pytest.approx(sum(reward for _, reward, *_ in steps))
    aims = [trade.profit_ratio / 0.025 * (2 if trade.profit_ratio > 0.025 else 1) for trade in trades]
    assert info["reward_terms"]["profit_quality"] == pytest.approx(0.5 * sum(aims))


def test_reward_terms_can_be_drained_across_episodes() -> None:
    env = TradingEnv(market(), make_settings("agent"))
    totals = []
    for _ in range(2):
        steps = episode(env, random_choice(env, 1))[1:]
        totals.append(sum(reward for _, reward, *_ in steps))
    assert env.drain_reward_terms() == pytest.approx({"equity": sum(totals)})
    assert env.drain_reward_terms() == {}


def test_action_masks_follow_the_position() -> None:
    env = TradingEnv(quiet_tape(20), make_settings("agent", can_short=False))
    env.reset()
    assert env.action_masks().tolist() == [True, True, False, False, False]
    env.step(Action.LONG_ENTER)
    assert env.action_masks().tolist() == [True, False, True, False, False]
    assert env.action_masks().dtype == np.bool_


def test_an_action_that_cannot_be_done_changes_nothing_and_can_be_charged() -> None:
    settings = EnvSettings(make_rules(), RewardSettings(invalid_weight=0.5), "agent", lookback=1)
    env = TradingEnv(quiet_tape(20), settings)
    env.reset()
    observation, reward, *_ = env.step(Action.SHORT_EXIT)
    assert fields(observation)["side"] == 0
    assert reward == -0.5


def test_trades_are_recorded_only_where_that_is_asked_for() -> None:
    env = TradingEnv(quiet_tape(20), replace(make_settings("agent"), record_trades=False))
    *_, info = episode(env, lambda: Action.LONG_ENTER)[-1]
    assert set(info) == {"final_equity", "reward_terms"}


# Refusals


def test_candles_without_a_signal_are_refused_with_the_remedy() -> None:
    with pytest.raises(TapeError, match=r"none of 30 candles carries a classic signal.*remedy:.*'agent'"):
        TradingEnv(quiet_tape(30), make_settings("gated"))


def test_a_strategy_that_enters_nowhere_is_not_sent_to_the_mode_it_is_in() -> None:
    nowhere = np.zeros(30, dtype=bool)
    with pytest.raises(TapeError, match="does the strategy enter where the policy would") as refused:
        TradingEnv(replace(quiet_tape(30), long_gate=nowhere, short_gate=nowhere), make_settings("agent"))
    assert "'agent'" not in str(refused.value)


def test_short_signals_are_no_signals_without_can_short() -> None:
    with pytest.raises(TapeError, match="none of 30 candles carries a classic signal"):
        TradingEnv(quiet_tape(30, short_at=(5, 10)), make_settings("classic", can_short=False))


@pytest.mark.parametrize("n", [1, 5, 6])
def test_too_few_candles_are_refused_with_the_number_needed(n: int) -> None:
    with pytest.raises(TapeError, match=rf"longest run of candles without a gap has {n}.*conv_width \+ 2 = 7 .*remedy"):
        TradingEnv(quiet_tape(n), make_settings("agent", lookback=5))


def test_just_enough_candles_make_one_decision() -> None:
    env = TradingEnv(quiet_tape(7), make_settings("agent", lookback=5))
    observation, _ = env.reset()
    assert fields(observation)["row"] == 4
    *_, terminated, truncated, _ = env.step(Action.NEUTRAL)
    assert (terminated, truncated) == (False, True)


def test_trades_that_all_end_in_their_entry_candle_are_refused_in_classic_mode() -> None:
    wild = candle_table(*[(100.0, 104.0, 96.0, 100.01)] * 30)
    env = TradingEnv(make_tape(wild, np.arange(30) % 5 == 0), make_settings("classic"))
    with pytest.raises(TapeError, match=r"every trade of 30 candles ends in its entry candle.*remedy: widen"):
        env.reset()


def test_timeframe_of_the_tape_dates_the_trades() -> None:
    tape = quiet_tape(10)
    env = TradingEnv(tape, make_settings("agent"))
    env.reset()
    env.step(Action.LONG_ENTER)
    for _ in range(3):
        env.step(Action.NEUTRAL)
    env.step(Action.LONG_EXIT)
    (trade,) = trades_to_the_end(env)
    assert trade.close_ms - trade.open_ms == 4 * TIMEFRAME_MS
