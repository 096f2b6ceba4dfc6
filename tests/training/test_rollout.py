"""A rollout of FusedPPO is the one stable-baselines3 collects, and its memory does not grow with the lookback."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_markets import env_settings, random_tape
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from test_ppo import model

from mtfscalper.envs.build import build_vec_env
from mtfscalper.policy.network import features_extractor
from mtfscalper.training import rollout
from mtfscalper.training.ppo import FusedPPO
from mtfscalper.training.storage import Rollout

# Short, so that episodes end within a rollout.
TAPE = random_tape(90)

PLAYED = ("observations", "actions", "rewards", "episode_starts")
ESTIMATED = ("values", "log_probs", "advantages", "returns")


def rollout_of(
    algorithm: type[PPO], vec_env: str = "batched", *, max_drawdown_ratio: float = 0.999, gamma: float = 0.99
) -> PPO:
    """A model after two rollouts, without updates."""
    settings = env_settings()
    settings = replace(settings, rules=replace(settings.rules, max_drawdown_ratio=max_drawdown_ratio))
    made = model(algorithm, gamma=gamma)
    made.set_env(build_vec_env(vec_env, TAPE, settings, 4))
    features_extractor(made).set_features(TAPE.features)
    _, callback = made._setup_learn(10_000, CallbackList([]))
    made.env.seed(11)
    made._last_obs = made.env.reset()
    for _ in range(2):
        assert made.collect_rollouts(made.env, callback, made.rollout_buffer, made.n_steps)
    return made


@pytest.mark.parametrize(("few", "threads"), [(4, 1), (3, 2)])
def test_few_rows_leave_processors_to_the_environments(monkeypatch: pytest.MonkeyPatch, few: int, threads: int) -> None:
    monkeypatch.setattr(rollout, "_ROWS_OF_ONE_THREAD", few)
    made = model(FusedPPO)
    made.set_env(build_vec_env("batched", TAPE, env_settings(), 4))
    features_extractor(made).set_features(TAPE.features)
    seen: list[int] = []

    class Notes(BaseCallback):
        def _on_rollout_start(self) -> None:
            seen.append(-torch.get_num_threads())

        def _on_step(self) -> bool:
            seen.append(torch.get_num_threads())
            return len(seen) < 4

    _, callback = made._setup_learn(10_000, CallbackList([Notes()]))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        # A callback that ends it leaves torch as it was, too.
        assert not made.collect_rollouts(made.env, callback, made.rollout_buffer, made.n_steps)
        assert seen == [-2, threads, threads, threads]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def columns_of(made: PPO) -> dict[str, np.ndarray]:
    """A fused model's rollout, in the shapes of stable-baselines3's."""
    kept = made.rollout_buffer
    assert isinstance(kept, Rollout)
    columns = {name: column.numpy() for name, column in kept._asdict().items()}
    return columns | {"actions": columns["actions"][:, :, None]}


@pytest.mark.parametrize("vec_env", ["batched", "dummy"])
@pytest.mark.parametrize("max_drawdown_ratio", [0.999, 0.02], ids=["cut off", "terminated"])
def test_a_rollout_is_that_of_stable_baselines3(vec_env: str, max_drawdown_ratio: float) -> None:
    theirs, ours = (
        rollout_of(algorithm, vec_env, max_drawdown_ratio=max_drawdown_ratio) for algorithm in (PPO, FusedPPO)
    )
    kept = columns_of(ours)
    assert theirs.rollout_buffer.episode_starts.sum() > 10
    assert theirs.num_timesteps == ours.num_timesteps == 2 * 4 * 128
    for name in PLAYED:
        played = kept[name]
        if name == "rewards":
            # The value of what a cut-off episode would have gone on to is among them.
            np.testing.assert_allclose(played, theirs.rollout_buffer.rewards, atol=1e-6)
        else:
            np.testing.assert_array_equal(played, getattr(theirs.rollout_buffer, name))
    for name in ESTIMATED:
        np.testing.assert_allclose(kept[name], getattr(theirs.rollout_buffer, name), rtol=1e-4, atol=1e-5)
    assert len(ours.ep_info_buffer) == len(theirs.ep_info_buffer) > 0
    for own, other in zip(ours.ep_info_buffer, theirs.ep_info_buffer, strict=True):
        assert own["l"] == other["l"]
        assert own["r"] == pytest.approx(other["r"], abs=1e-5)


def test_the_value_of_what_was_cut_off_is_added_to_the_reward() -> None:
    """Else the test above compared rollouts without it."""
    rewards, without = (columns_of(rollout_of(FusedPPO, gamma=gamma))["rewards"] for gamma in (0.99, 0.0))
    starts = columns_of(rollout_of(FusedPPO))["episode_starts"].astype(bool)
    # The step before a start ended an episode; of the last step's ends, the next rollout tells.
    differs = (rewards != without)[:-1]
    assert starts[1:].sum() > 10
    np.testing.assert_array_equal(differs, starts[1:])


def test_a_callback_ends_a_rollout() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 40

    made = model(FusedPPO)
    made.learn(10_000, callback=Stop())
    assert made.num_timesteps == 40


def test_a_rollouts_memory_does_not_grow_with_the_lookback() -> None:
    sizes = [model(FusedPPO, lookback=lookback).rollout_buffer.observations.nbytes for lookback in (1, 30)]
    assert sizes == [4 * 128 * 7 * 4] * 2
