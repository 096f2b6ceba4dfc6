"""The batched environment: equal to single ones step by step, and a VecEnv as stable-baselines3 defines it."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import candle_table, make_settings, make_tape, random_candles
from equivalence import OF_CANDLES, all_rules_settings, assert_equal_trajectories, dummy_env, eventful_tape
from sb3_contrib import MaskablePPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.market.tape import TapeError
from mtfscalper.settings import Settings
from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import NUMPY, BatchNamespace
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.trading.torch_arrays import TorchNamespace
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.report import TrainingReport

ENTRY_MODES = ("classic", "gated", "agent")
# The namespace and how far numbers of the account may differ from a single environment's.
FORMS = [pytest.param(NUMPY, 0.0, id="numpy"), pytest.param(TorchNamespace(), 1e-12, id="torch")]
QUIET = (100.0, 100.2, 99.8, 100.01)


def quiet_env(n_envs: int = 2, **settings: Any) -> BatchedTradingEnv:
    """Twelve candles on which no stop is hit."""
    return BatchedTradingEnv(make_tape(candle_table(*[QUIET] * 12)), make_settings("agent", **settings), n_envs)


# Equivalence


@pytest.mark.parametrize(("random_start", "terms"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
@pytest.mark.parametrize(("xp", "money"), FORMS)
def test_a_batch_equals_single_environments_step_by_step(
    entry_mode: str, random_start: bool, xp: BatchNamespace, money: float, terms: bool
) -> None:
    # Waiting for signals, an account loses less until its episode ends.
    rules = OF_CANDLES if terms else {}
    settings = all_rules_settings(entry_mode, random_start=random_start, max_drawdown_ratio=0.05, **rules)
    tape = eventful_tape(terms=terms)
    # A step of a batch costs nearly the same however many environments there are.
    batched = BatchedTradingEnv(tape, settings, 14, xp=xp)
    seen = assert_equal_trajectories(dummy_env(tape, settings, 14), batched, 250, money=money)
    reasons = {EXIT_REASON_NAMES[reason] for reason in ExitReason if reason != ExitReason.NONE}
    assert reasons - set(seen) <= {"force_exit", *([] if terms else ["liquidation"])}
    assert seen["truncated"] >= 10
    assert seen["terminated"] >= 5
    assert seen["force_exit"] > 0 or not random_start or terms


@pytest.mark.parametrize(
    "rules",
    [
        {"trailing_stop": False, "minimal_roi": ()},
        {"trailing_only_offset_is_reached": False},
        {
            "trailing_stop_positive": None,
            "trailing_stop_positive_offset": 0.0,
            "trailing_only_offset_is_reached": False,
        },
        {"can_short": False, "minimal_roi": ((10, -1.0),)},
    ],
)
@pytest.mark.parametrize(("xp", "money"), FORMS)
def test_a_batch_equals_single_environments_under_fewer_rules(
    rules: dict[str, Any], xp: BatchNamespace, money: float
) -> None:
    tape, settings = eventful_tape(300, seed=1, gaps=False), all_rules_settings("agent", **rules)
    settings = replace(settings, reward=RewardSettings(), lookback=1)
    batched = BatchedTradingEnv(tape, settings, 3, xp=xp)
    seen = assert_equal_trajectories(dummy_env(tape, settings, 3), batched, 400, money=money)
    assert sum(seen.values()) > 50


@pytest.mark.parametrize("n_envs", [1, 33])
def test_the_number_of_environments_does_not_matter(n_envs: int) -> None:
    tape, settings = eventful_tape(), all_rules_settings("gated")
    alone = dummy_env(tape, settings, n_envs)
    assert assert_equal_trajectories(alone, BatchedTradingEnv(tape, settings, n_envs), 120)["exit_signal"] > 0


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_lookback_observations_equal_those_of_single_environments(entry_mode: str) -> None:
    tape, settings = eventful_tape(features=4), all_rules_settings(entry_mode)
    batched = build_vec_env("batched", tape, settings, 3, compact=False)
    assert batched.observation_space.shape == (3 * 4 + 6,)
    assert isinstance(underlying(batched), BatchedTradingEnv)
    seen = assert_equal_trajectories(dummy_env(tape, settings, 3, compact=False), underlying(batched), 200)
    assert seen["truncated"] > 0


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_several_pairs_are_played_on_their_own_candles(entry_mode: str) -> None:
    settings = all_rules_settings(entry_mode, random_start=True)
    tapes = [replace(eventful_tape(400, seed), pair=f"P{seed}") for seed in range(3)]
    single = DummyVecEnv([lambda: TradingEnv(tapes, settings)] * 4)
    batched = BatchedTradingEnv(tapes, settings, 4)
    assert assert_equal_trajectories(single, batched, 300)["truncated"] > 10
    pairs: Counter[str] = Counter()
    batched.seed(1)
    batched.reset()
    rng = np.random.default_rng(0)
    for _ in range(300):
        _, _, _, infos = batched.step(rng.integers(0, 5, 4))
        for trade in (trade for info in infos for trade in info.get("trades", [])):
            tape = tapes[int(trade.pair[1])]
            at = int(np.flatnonzero(tape.dates_ms == trade.open_ms)[0])
            assert tape.low[at] <= trade.open_rate <= tape.high[at]
            pairs[trade.pair] += 1
    assert set(pairs) == {"P0", "P1", "P2"}


def test_a_range_of_prices_never_looks_back_into_another_pair() -> None:
    settings = replace(make_settings("agent"), reward=RewardSettings(equity_weight=0.0, timing_weight=1.0))
    low, high = (make_tape(random_candles(0, 60, rate=rate)) for rate in (10.0, 1000.0))
    together, alone = BatchedTradingEnv([low, high], settings, 1), BatchedTradingEnv(high, settings, 1)
    rewards = []
    for env in (together, alone):
        # Without a seed, two pairs start with the second.
        env.reset()
        rewards.append([env.step(np.array([action]))[1].item() for action in (1, 0, 2, 3, 4, 1, 2)])
    assert rewards[0] == rewards[1]
    assert any(rewards[0])


def test_candles_of_different_lengths_do_not_make_a_batch() -> None:
    tapes = [eventful_tape(300), replace(eventful_tape(300), timeframe_ms=60_000)]
    with pytest.raises(TapeError, match=r"candles of \[60000, 300000\] ms; accepted: one timeframe"):
        BatchedTradingEnv(tapes, make_settings("agent"), 2)


# Ends of episodes


def test_an_end_tells_the_terminal_observation_and_shows_the_first_of_the_next_episode() -> None:
    env = quiet_env(n_envs=1)
    first = env.reset()
    for _ in range(9):
        _, _, dones, infos = env.step(np.array([Action.SHORT_ENTER]))
        assert (dones.tolist(), infos) == ([False], [{"TimeLimit.truncated": False}])
    observations, _, dones, (info,) = env.step(np.array([Action.NEUTRAL]))
    assert dones.tolist() == [True]
    assert info["TimeLimit.truncated"] is True
    # The last candle is the twelfth: what closed last is the eleventh.
    assert info["terminal_observation"].tolist() == [10, 0, 0, 0, 0, 1, 1]
    assert info["final_equity"] == pytest.approx(1 - 2 * 0.0005)
    assert [trade.exit_reason for trade in info["trades"]] == ["force_exit"]
    np.testing.assert_array_equal(observations, first)


def test_a_trade_that_one_environment_enters_by_itself_at_the_very_end_is_told_by_that_environment() -> None:
    rows = np.arange(12)
    tape = make_tape(candle_table(*[QUIET] * 12), np.isin(rows, (2, 9)))
    env = BatchedTradingEnv(tape, make_settings("classic"), 2)
    env.reset()
    # The first holds on; the second leaves, enters at the last candle but one, and is forced out.
    _, _, dones, infos = env.step(np.array([Action.NEUTRAL, Action.LONG_EXIT]))
    assert dones.tolist() == [False, True]
    assert [trade.exit_reason for trade in infos[1]["trades"]] == ["exit_signal", "force_exit"]
    for _ in range(6):
        _, _, dones, infos = env.step(np.full(2, Action.NEUTRAL))
    assert dones[0]
    assert [trade.exit_reason for trade in infos[0]["trades"]] == ["force_exit"]


def test_a_drawdown_is_no_time_limit() -> None:
    opens = np.round(100 * 0.99 ** np.arange(40), 2)
    tape = make_tape(candle_table(*[(rate, rate + 0.1, rate - 1.1, rate - 1.0) for rate in opens]))
    settings = make_settings("agent", leverage_long=5.0, stoploss_ratio=0.9, max_drawdown_ratio=0.2)
    env = BatchedTradingEnv(tape, settings, 1)
    env.reset()
    dones, infos = np.array([False]), [{}]
    while not dones[0]:
        _, _, dones, infos = env.step(np.array([Action.LONG_ENTER]))
    assert infos[0]["TimeLimit.truncated"] is False
    assert 0.75 < infos[0]["final_equity"] < 0.8


def test_trades_are_recorded_only_where_that_is_asked_for() -> None:
    env = BatchedTradingEnv(eventful_tape(), replace(all_rules_settings("classic"), record_trades=False), 4)
    env.reset()
    ends = [info for _ in range(300) for info in env.step(np.full(4, 2))[3] if "final_equity" in info]
    assert len(ends) > 3
    assert all("trades" not in info for info in ends)


def test_results_of_a_step_are_not_changed_by_the_next_one() -> None:
    env = BatchedTradingEnv(eventful_tape(), all_rules_settings("classic"), 4)
    env.seed(0)
    steps = [(env.reset(),)]
    copies = [(steps[0][0].copy(),)]
    for _ in range(150):
        results = env.step(np.full(4, 2))[:3]
        # stable-baselines3 adds the value of a truncated state to the rewards.
        results[1][0] += 0
        steps.append(results)
        copies.append(tuple(array.copy() for array in results))
    for results, kept in zip(steps, copies, strict=True):
        for array, copy in zip(results, kept, strict=True):
            np.testing.assert_array_equal(array, copy)


def test_candles_that_leave_nothing_to_decide_are_refused_as_by_a_single_environment() -> None:
    wild = make_tape(candle_table(*[(100.0, 104.0, 96.0, 100.01)] * 30), np.arange(30) % 5 == 0)
    env = BatchedTradingEnv(wild, make_settings("classic"), 2)
    with pytest.raises(TapeError, match=r"every trade of 30 candles ends in its entry candle.*remedy: widen"):
        env.reset()


# The interface


def test_a_seed_is_used_by_the_next_reset_alone() -> None:
    env = BatchedTradingEnv(eventful_tape(), all_rules_settings("agent"), 8)
    assert env.seed(3) == list(range(3, 11))
    first = env.reset()
    assert len(set(first[:, 0].tolist())) >= 6
    # Then the segments in turn, from their first candles on.
    starts = env.reset()[:, 0]
    assert set(starts.tolist()) <= {2.0, 302.0, 452.0, 492.0}
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    env.seed(4)
    np.testing.assert_array_equal(env.reset()[:-1], first[1:])


def test_random_starts_without_a_seed_differ_from_one_environment_to_the_next() -> None:
    env = BatchedTradingEnv(eventful_tape(), all_rules_settings("agent", random_start=True), 8)
    assert len(set(env.reset()[:, 0].tolist())) > 4


@pytest.mark.parametrize("actions", [[0, 5], [-1, 0]])
def test_an_action_that_does_not_exist_is_refused_by_name(actions: list[int]) -> None:
    env = quiet_env()
    env.reset()
    index = next(i for i, action in enumerate(actions) if action not in range(5))
    with pytest.raises(IndexError, match=f"environment {index} is {actions[index]}; accepted: 0 to 4"):
        env.step(np.array(actions))


def test_environments_can_be_asked_one_by_one() -> None:
    env = quiet_env(3, can_short=False)
    env.reset()
    env.step(np.array([0, 1, 0]))
    assert [mask.tolist() for mask in env.env_method("action_masks", indices=[1, 2])] == [
        [True, False, True, False, False],
        [True, True, False, False, False],
    ]
    assert env.env_method("action_masks", indices=1)[0].dtype == np.bool_
    assert env.get_attr("settings") == [env.settings] * 3
    assert env.has_attr("action_masks")
    assert not env.has_attr("price")
    env.set_attr("note", "second", indices=1)
    assert env.get_attr("note", indices=1) == ["second"]
    with pytest.raises(AttributeError):
        env.get_attr("note")
    # Shared by all of them, and worked into the tape: silence would be a lie.
    with pytest.raises(AttributeError):
        env.set_attr("settings", make_settings("classic"))
    assert env.env_is_wrapped(Monitor) == [False] * 3
    assert env.render_mode is None
    env.close()
    env.close()


def test_reward_terms_are_drained_by_each_environment_for_itself() -> None:
    env = quiet_env(2)
    env.reset()
    assert env.env_method("drain_reward_terms") == [{}, {}]
    _, rewards, _, _ = env.step(np.array([Action.LONG_ENTER, Action.NEUTRAL]))
    assert env.env_method("drain_reward_terms", indices=0) == [{"equity": pytest.approx(rewards[0], abs=1e-7)}]
    assert env.env_method("drain_reward_terms") == [{}, {"equity": 0.0}]


def test_rewards_without_any_weight_are_zeros() -> None:
    settings = replace(make_settings("agent"), reward=RewardSettings(equity_weight=0.0))
    env = BatchedTradingEnv(make_tape(candle_table(*[QUIET] * 12)), settings, 2)
    env.reset()
    rewards = env.step(np.array([1, 0]))[1]
    assert (rewards.tolist(), rewards.dtype) == ([0.0, 0.0], np.float32)


# Training


def learned(name: str, other: dict[str, Any] | None = None, lookback: int = 1, **rl: Any) -> tuple[Any, TrainingReport]:
    """A tiny training.

    :param other: ``model_training_parameters``
    :param rl: keys of ``rl_config``
    """
    tiny = {"train_cycles": 1, "n_envs": 4, "net_arch": [8], "device": "cpu", "progress_bar": False}
    section = {"vec_env": name} | tiny | rl
    config = {"freqai": {"conv_width": lookback, "model_training_parameters": other or {}, "rl_config": section}}
    settings = Settings.from_config(config)
    return TrainingJob(settings, eventful_tape(300), None, all_rules_settings(settings.rl.entry_mode, lookback)).run()


@pytest.mark.parametrize(
    "keywords",
    [
        {"entry_mode": "classic", "n_steps": 32, "batch_size": 32, "n_epochs": 2},
        {"entry_mode": "gated", "initial_exit_probability": 0.3, "n_steps": 32, "batch_size": 32, "n_epochs": 2},
        {"model_type": "A2C", "other": {"n_steps": 16}},
        {"model_type": "DQN", "other": {"learning_starts": 50}, "lookback": 3},
    ],
)
def test_a_training_on_a_batch_gives_the_parameters_of_one_on_single_environments(keywords: dict[str, Any]) -> None:
    batched, report = learned("batched", **keywords)
    assert (report.vec_env, report.n_envs) == ("BatchedTradingEnv", 4)
    single, single_report = learned("dummy", **keywords)
    wanted = single.policy.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in batched.policy.state_dict().items())
    assert report.reward_terms == single_report.reward_terms


def test_maskable_ppo_finds_the_masks_and_learns() -> None:
    env = build_vec_env("batched", eventful_tape(), make_settings("gated"), 2, compact=False)
    assert isinstance(env, VecMonitor)
    model = MaskablePPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs={"net_arch": [8]})
    model.learn(64)
    assert model.num_timesteps == 64


def test_a_monitor_keeps_the_shared_info_clean() -> None:
    env = build_vec_env("batched", eventful_tape(), all_rules_settings("classic"), 3)
    env.reset()
    for _ in range(200):
        *_, dones, infos = env.step(np.full(3, 2))
        for done, info in zip(dones, infos, strict=True):
            assert ("episode" in info) == done
            assert done or info == {"TimeLimit.truncated": False}
