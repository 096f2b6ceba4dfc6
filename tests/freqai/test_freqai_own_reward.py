"""A user's MyRLEnv through FreqAI: checked, trained on, sent to workers, and part of what a policy is made from."""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqai_runs import ROOT, FreqtradeBacktest, Watch
from freqtrade.exceptions import OperationalException
from stable_baselines3.common.vec_env import SubprocVecEnv
from test_own_reward import PARAMETERS, config_with, paid_by
from tiny_training import env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.model import MtfScalperFreqaiModel
from mtfscalper.freqai.own_reward import UsersReward, users_reward
from mtfscalper.freqai.reward_env import SHOWN
from mtfscalper.trading.own_reward import OwnRewardError
from mtfscalper.trading.reward import RewardSettings, load_own_terms
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.reward_check import check_reward, reward_profit_correlation

TAPE = random_tape(400)
MODEL = """
import reward_limits
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv, Positions

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class MtfScalperRLModel(MtfScalperFreqaiModel):
    class MyRLEnv(Base5ActionRLEnv):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.rsi = self.raw_features.filter(like="rsi").iloc[:, 0].tolist()

        def calculate_reward(self, action):
            rsi = self.rsi[self._current_tick]
            assert 1 < rsi < 100, rsi
            self.tensorboard_log("rsi", value=rsi, category="seen")
            if self._position == Positions.Neutral:
                return -reward_limits.IDLE * self.rl_config["model_reward_parameters"]["idle_penalty"]["each"]
            return self.get_unrealized_profit()
"""
OWN: dict[str, Any] = {
    "rl_config": {
        "vec_env": "batched",
        "my_own_key": 3,
        "model_reward_parameters": {"idle_penalty": {"each": 2}, "equity_weight": 7, "profit_aim": 0.02},
    }
}


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """A folder with a model of the user's, which needs a second file beside it, known to Python until the test ends."""
    folder = tmp_path / "models_of_mine"
    folder.mkdir()
    (folder / "MtfScalperRLModel.py").write_text(MODEL)
    (folder / "reward_limits.py").write_text("IDLE = 0.001\n")
    yield folder
    forget("reward_limits")


def forget(*names: str) -> None:
    for name in names:
        sys.modules.pop(name, None)


def test_it_is_trained_on_and_an_edit_of_a_file_that_it_uses_trains_anew(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(models))
    forget("reward_limits")
    watch = Watch(monkeypatch)
    with caplog.at_level(logging.INFO):
        run = FreqtradeBacktest(tmp_path, market, freqai=OWN, model_path=models)
        run.run()
    assert len(watch.trained) == 3
    reports = [json.loads(path.read_text()) for path in run.models.rglob("training_report.json")]
    assert [list(report["reward_terms"]) for report in reports] == [["calculate_reward"]] * 3
    assert {report["vec_env"] for report in reports} == {"DummyVecEnv"}
    [said] = [record.message for record in caplog.records if "runs as 'dummy'" in record.message]
    assert said.startswith("freqai.rl_config.vec_env 'batched' runs as 'dummy'")
    [warning] = [record.message for record in caplog.records if "for MyRLEnv.calculate_reward alone" in record.message]
    assert "keys that nothing else reads (my_own_key)" in warning
    assert "weights of terms that do not pay beside it (equity_weight)" in warning
    before = run.strategy.freqai._run.fingerprint
    (models / "reward_limits.py").write_text("IDLE = 0.002\n")
    forget("reward_limits")
    again = FreqtradeBacktest(tmp_path, market, freqai=OWN, model_path=models)
    again.run()
    assert len(watch.trained) == 6
    after = again.strategy.freqai._run.fingerprint
    assert {name for name in after if after[name] != before[name]} == {"model class", "your own code"}


def test_its_parameters_and_keys_that_are_no_settings_are_part_of_what_a_policy_is_made_from() -> None:
    def hash_of(config: dict[str, Any]) -> str:
        from own_rewards import Impatient

        reward = users_reward(type("Mine", (MtfScalperFreqaiModel,), {"MyRLEnv": Impatient}), config)
        assert reward is not None
        return reward.parameters_sha256

    config, keyed, shown = config_with(), config_with(), config_with()
    keyed["freqai"]["rl_config"]["my_own_key"] = 3
    shown["freqai"]["rl_config"]["progress_bar"] = False
    assert len({hash_of(config), hash_of(config_with(idle={"each_candle": -1})), hash_of(keyed)}) == 3
    assert hash_of(shown) == hash_of(config)


READS_CONFIG = """
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv

from mtfscalper.freqai.model import MtfScalperFreqaiModel

KEYS = ("my_factor", "my_other")


class Reading(MtfScalperFreqaiModel):
    class MyRLEnv(Base5ActionRLEnv):
        def calculate_reward(self, action):
            own = self.config[KEYS[0]] * self.config["freqai"][KEYS[1]]
            return own * self.get_unrealized_profit() / self.config.get("max_open_trades", 1)
"""


def test_whatever_of_the_config_its_file_names_is_part_of_what_a_policy_is_made_from(tmp_path: Path) -> None:
    model = model_of_a_file(tmp_path, READS_CONFIG, "Reading")

    def reward_with(freqai: dict[str, Any] | None = None, **top: Any) -> UsersReward:
        config = {**config_with(), "my_factor": 1.0, "not_named": 1, **top}
        config["freqai"] = {**config["freqai"], "my_other": 1.0, **(freqai or {})}
        reward = users_reward(model, config)
        assert reward is not None
        return reward

    same = reward_with()
    for changed in (reward_with(my_factor=2.0), reward_with({"my_other": 2.0}), reward_with(max_open_trades=3)):
        assert changed.parameters_sha256 != same.parameters_sha256
        assert changed.config_read != same.config_read
    assert reward_with(not_named=2).parameters_sha256 == same.parameters_sha256
    assert set(same.config_read) == {"my_factor", "freqai.my_other"}


def test_what_cannot_be_trained_stops_before_any_candle_is_used(tmp_path: Path, market: Path, models: Path) -> None:
    def stopped(freqai: dict[str, Any], source: str = MODEL.replace("import reward_limits\n", "")) -> str:
        (models / "MtfScalperRLModel.py").write_text(source)
        with pytest.raises(OperationalException) as error:
            FreqtradeBacktest(tmp_path, market, freqai=freqai, model_path=models)
        return str(error.value)

    torch = {"rl_config": {"vec_env": "torch"}}
    assert "vec_env is 'torch', and MyRLEnv.calculate_reward is Python that is asked about one" in stopped(torch)
    steps = MODEL.replace("import reward_limits\n", "") + "\n        def step(self, action):\n            return 1\n"
    assert "MtfScalperRLModel.MyRLEnv overrides step, which nothing calls here" in stopped({}, steps)
    # What this package reads itself is still checked.
    aim = {"rl_config": {"model_reward_parameters": {"profit_aim": "high"}}}
    assert "model_reward_parameters.profit_aim is 'high'" in stopped(aim)


# ---------------------------------------------------------------------- vector environments

COUNTS = """
import multiprocessing

from freqtrade.freqai.RL.Base4ActionRLEnv import Base4ActionRLEnv

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class Counting(MtfScalperFreqaiModel):
    class MyRLEnv(Base4ActionRLEnv):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.calls = 0

        def calculate_reward(self, action):
            self.calls += 1
            if {fails} and self.calls > 20 and multiprocessing.parent_process() is not None:
                raise RuntimeError("enough")
            self.tensorboard_log("calls")
            return self.get_unrealized_profit() + action / 8
"""


def model_of_a_file(folder: Path, source: str, name: str) -> type:
    """A model's class as freqtrade's resolver loads it: its module is unknown to Python."""
    file = folder / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = getattr(module, name)
    model.__file__ = str(file)
    return model  # type: ignore[no-any-return]


def counting(folder: Path, fails: bool = False) -> type:
    """
    :param fails: whether its reward does, in a worker process
    """
    return model_of_a_file(folder, COUNTS.format(fails=fails), "Counting")


def settings_of(model: type) -> EnvSettings:
    settings = env_settings_of(tiny_settings(entry_mode="agent"))
    reward = users_reward(model, config_with())
    assert reward is not None
    return replace(settings, own_reward=reward.of_pair(TAPE.pair, config_with(), settings.rules, 1, None))


def test_workers_without_the_users_file_pay_what_this_process_pays(tmp_path: Path) -> None:
    settings = settings_of(counting(tmp_path))
    paid = {}
    for name in ("dummy", "subproc"):
        vec_env = build_vec_env(name, TAPE, settings, 2)
        try:
            assert isinstance(underlying(vec_env), SubprocVecEnv) == (name == "subproc")
            vec_env.seed(0)
            vec_env.reset()
            random = np.random.default_rng(0)
            rewards = [vec_env.step(random.integers(0, 5, 2))[1] for _ in range(60)]
            paid[name] = np.array(rewards), vec_env.env_method("reward_metrics"), vec_env.env_method("action_masks")
        finally:
            vec_env.close()
    np.testing.assert_array_equal(paid["subproc"][0], paid["dummy"][0])
    assert np.unique(paid["dummy"][0]).size > 20
    assert paid["subproc"][1] == paid["dummy"][1]
    assert paid["dummy"][1][0]["custom/calls"] >= 60


@pytest.mark.acceptance
def test_a_fresh_process_can_run_the_training(tmp_path: Path) -> None:
    settings = settings_of(counting(tmp_path))
    sent = tmp_path / "job.pickle"
    sent.write_bytes(pickle.dumps(TrainingJob(tiny_settings(entry_mode="agent"), TAPE, None, settings)))
    (tmp_path / "Counting.py").unlink()
    code = (
        "import pickle\n"
        f"job = pickle.loads(pickle.dumps(pickle.load(open({str(sent)!r}, 'rb'))))\n"
        "print(list(job.run()[1].reward_terms))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "['calculate_reward']"


@pytest.mark.acceptance
def test_a_reward_that_fails_in_a_worker_ends_the_training_with_the_users_line(tmp_path: Path) -> None:
    settings = settings_of(counting(tmp_path, fails=True))
    rl = {"entry_mode": "agent", "vec_env": "subproc"}
    with pytest.raises(
        OwnRewardError, match=r'Counting.py, line 18 \(raise RuntimeError\("enough"\)\): RuntimeError: '
    ):
        TrainingJob(tiny_settings(**rl), TAPE, None, settings).run()


# ---------------------------------------------------------------------- training


class Flat:
    """Pays for staying out of the market."""

    def calculate_reward(self, action: int) -> float:
        return 1.0 if self._position.name == "Neutral" else -1.0  # type: ignore[attr-defined]


def test_the_figures_it_logs_and_its_sum_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = settings_of(counting(tmp_path))
    job = TrainingJob(tiny_settings(entry_mode="agent"), TAPE, None, settings, tensorboard_dir=tmp_path / "board")
    _, report = job.run()
    [folder] = (tmp_path / "board").iterdir()
    board = EventAccumulator(str(folder)).Reload()
    assert {"custom/calls", "reward/calculate_reward", "rollout/reward"} <= set(board.Tags()["scalars"])
    assert not [tag for tag in board.Tags()["scalars"] if tag.endswith("/Long_enter")]
    assert board.Scalars("custom/calls")[0].value > 10
    assert np.isfinite(report.reward_profit_correlation)


@pytest.mark.acceptance
def test_what_is_learned_is_what_it_pays_for() -> None:
    from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv

    own = paid_by(type("Flat", (Flat, Base5ActionRLEnv), {}), env_settings_of(tiny_settings(entry_mode="agent")))
    settings = tiny_settings(entry_mode="agent", train_cycles=12, learning_rate=0.01)
    plain, _ = TrainingJob(settings, TAPE, None, replace(own, own_reward=None)).run()
    paid, report = TrainingJob(settings, TAPE, None, own).run()
    assert not same(parameters(plain), parameters(paid))
    # One for each of 16,000 timesteps would be the most there is.
    assert report.reward_terms["calculate_reward"] > 0.5 * report.timesteps


def test_a_reward_is_ranked_beside_profit() -> None:
    from own_rewards import PaysExits

    settings = env_settings_of(tiny_settings(entry_mode="agent"))
    assert reward_profit_correlation(TAPE, paid_by(PaysExits, settings), 1) > 0.9

    class Backwards(PaysExits):
        def calculate_reward(self, action: int) -> float:
            return -super().calculate_reward(action)

    assert reward_profit_correlation(TAPE, paid_by(Backwards, settings), 1) < -0.9


def test_the_documents_example_can_be_used_as_it_stands_and_its_list_is_what_is_shown(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own_reward.md").read_text(encoding="utf-8")
    source, terms = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    paid = settings_of(model_of_a_file(tmp_path, source, "MyCoolRLModel"))
    assert np.isfinite(reward_profit_correlation(TAPE, paid, 1))
    assert len(source.splitlines()) <= 18
    listed = page.partition("## What it may read")[2].partition("Anything else")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(SHOWN)
    written = "".join(line.removeprefix("# ").strip() for line in terms.splitlines()[:2])
    weights = json.loads("{" + written + "}")["model_reward_parameters"]
    (tmp_path / "my_terms.py").write_text(terms)
    forget("my_terms")
    reward = RewardSettings(**weights)
    own = load_own_terms(reward, tmp_path)
    assert check_reward(TAPE, replace(paid, own_reward=None, reward=reward, own_terms=own), 1) <= 1


def test_the_parameters_and_features_of_the_config_stay_as_they_were_written() -> None:
    config = config_with()
    frame = pd.DataFrame({"a": np.arange(len(TAPE))}, index=range(7, 7 + len(TAPE)))
    settings = env_settings_of(tiny_settings(entry_mode="agent"))
    from own_rewards import Impatient

    made = paid_by(Impatient, settings, frame).own_reward
    assert made is not None
    env = made.on(TAPE)._env  # type: ignore[attr-defined]
    assert env.rl_config == config["freqai"]["rl_config"]
    assert env.rl_config["model_reward_parameters"] == PARAMETERS
    assert env.raw_features["a"].iloc[5] == 5
    assert list(env.raw_features.index[:2]) == [0, 1]
    assert env.fee == settings.rules.fee_ratio
