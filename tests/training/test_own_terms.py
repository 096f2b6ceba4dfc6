"""A reward term of the user's: found in the user directory, sent by value, tried before training."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import SubprocVecEnv
from tiny_training import env_settings_of, random_tape, tiny_settings

from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.trading.reward import RewardSettings, load_own_terms
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.reward_check import RewardTermError, check_reward
from mtfscalper.user_code import UserCodeError, forget_user_code

TAPE = random_tape(400)
CALM = """
import my_limits


def calm(xp, settings, transition):
    return -xp.where(transition.after.held_candles > my_limits.LONGEST, 1.0, 0.0)
"""


@pytest.fixture
def user_data(tmp_path: Path) -> Path:
    """A user directory with a term that needs a second file beside it."""
    folder = tmp_path / "user_data"
    folder.mkdir()
    (folder / "my_terms.py").write_text(CALM)
    (folder / "my_limits.py").write_text("LONGEST = 3\n")
    return folder


def settings_with(folder: Path, weight: float = 0.2, name: str = "my_terms:calm") -> EnvSettings:
    forget_user_code()
    reward = RewardSettings(equity_weight=0.0, terms={name: weight})
    settings = env_settings_of(tiny_settings(entry_mode="agent"))
    return replace(settings, reward=reward, own_terms=load_own_terms(reward, folder))


def rewards_of(name: str, settings: EnvSettings) -> tuple[type, Any, list[dict[str, float]]]:
    """The kind of environments made, their rewards for random actions, and the sums by name."""
    vec_env = build_vec_env(name, TAPE, settings, 2)
    try:
        vec_env.seed(0)
        vec_env.reset()
        random = np.random.default_rng(0)
        rewards = [vec_env.step(random.integers(0, 5, 2))[1] for _ in range(60)]
        return type(underlying(vec_env)), np.array(rewards), vec_env.env_method("drain_reward_terms")
    finally:
        vec_env.close()


def test_a_term_of_ones_own_is_paid_in_every_vector_environment_and_shown_by_name(user_data: Path) -> None:
    settings = settings_with(user_data)
    _, expected, sums = rewards_of("dummy", settings)
    # After the fourth candle of a trade, a fifth each candle.
    assert set(np.unique(expected)) == {np.float32(-0.2), 0.0}
    assert [list(drained) for drained in sums] == [["my_terms:calm"]] * 2
    assert sum(drained["my_terms:calm"] for drained in sums) == pytest.approx(expected.sum())
    for name in ("batched", "subproc"):
        kind, rewards, drained = rewards_of(name, settings)
        np.testing.assert_array_equal(rewards, expected)
        assert drained == sums
        # A worker process that could not import the user's file would have been replaced.
        assert issubclass(kind, SubprocVecEnv) == (name == "subproc")


def test_a_fresh_process_without_the_user_directory_knows_the_term(user_data: Path, tmp_path: Path) -> None:
    sent = tmp_path / "settings.pickle"
    sent.write_bytes(pickle.dumps(settings_with(user_data)))
    code = (
        "import pickle, sys\n"
        f"settings = pickle.load(open({str(sent)!r}, 'rb'))\n"
        "from types import SimpleNamespace as N\n"
        "from mtfscalper.trading.arrays import SCALAR\n"
        "for again in (settings, pickle.loads(pickle.dumps(settings))):\n"
        "    held = [N(after=N(held_candles=h)) for h in (3.0, 4.0)]\n"
        "    print(*(again.own_terms[0].value(SCALAR, settings.reward, h) for h in held))\n"
        "print('my_terms' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-0.0", "-1.0", "-0.0", "-1.0", "False"]


def test_a_policy_is_trained_on_it(user_data: Path) -> None:
    _, report = TrainingJob(tiny_settings(entry_mode="agent"), TAPE, None, settings_with(user_data)).run()
    assert list(report.reward_terms) == ["my_terms:calm"]
    assert report.reward_terms["my_terms:calm"] < 0


def test_the_docs_example_can_be_used_as_it_stands(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reward-terms.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(# \"model_reward_parameters.*?)```", page, re.DOTALL)
    (tmp_path / "my_terms.py").write_text(code)
    forget_user_code()
    reward = json.loads("{" + code.splitlines()[0].removeprefix("# ") + "}")["model_reward_parameters"]
    settings = RewardSettings(**reward)
    env = replace(env_settings_of(tiny_settings(entry_mode="agent")), reward=settings)
    _, report = TrainingJob(
        tiny_settings(entry_mode="agent"), TAPE, None, replace(env, own_terms=load_own_terms(settings, tmp_path))
    ).run()
    assert list(report.reward_terms) == ["equity", "my_terms:calm"]
    assert report.reward_terms["my_terms:calm"] < 0
    # Six lines in a file.
    assert len(code.strip().splitlines()) <= 6


def test_a_term_with_weight_zero_is_left_out(user_data: Path) -> None:
    assert check_reward(TAPE, settings_with(user_data, weight=0.0), seed=1) != 1.0
    assert list(rewards_of("dummy", settings_with(user_data, weight=0.0))[2]) == [{}, {}]


def test_a_term_that_cannot_be_loaded_is_refused_by_its_key(user_data: Path) -> None:
    key = "freqai.rl_config.model_reward_parameters.terms"
    with pytest.raises(UserCodeError, match=f"^{key} names 'my_terms:clam', and .*no function or class clam"):
        settings_with(user_data, name="my_terms:clam")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1.0 if transition.equity_after > 1 else 0.0", "fails \\(ValueError"),
        ("return transition.equity_after.clip(0, 1)", "fails \\(AttributeError"),
        ("return 1.0", r"gives shape \(\)"),
        ("return transition.equity_after[:, None]", r"fails \(TypeError"),
        ("return transition.equity_after / 0.0", "fails \\(ZeroDivisionError"),
        (
            "return transition.equity_after - xp.log(1.0) + (0.5 if hasattr(transition.asked, 'shape') else 0.0)",
            "alone",
        ),
    ],
)
def test_a_term_that_gives_the_wrong_thing_is_refused_before_training(user_data: Path, body: str, said: str) -> None:
    (user_data / "my_terms.py").write_text(f"def calm(xp, settings, transition):\n    {body}\n")
    with np.errstate(divide="ignore"), pytest.raises(RewardTermError, match=f"term my_terms:calm .*({said})"):
        TrainingJob(tiny_settings(entry_mode="agent"), TAPE, None, settings_with(user_data)).run()
