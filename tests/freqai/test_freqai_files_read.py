"""A policy is not reused once a file that the user's reward read in its training is another."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from freqai_runs import FreqtradeBacktest, Watch
from test_freqai_own_reward import TAPE, model_of_a_file, settings_of
from tiny_training import env_settings_of, tiny_settings

from mtfscalper.artefacts import file_hash
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.policy_folders import PolicyFolders
from mtfscalper.freqai.policy_places import PolicyName
from mtfscalper.freqai.standing import Standing
from mtfscalper.freqai.trained_with import DROPS_PRICES, ENTRY_MODE
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.seals import Seals
from mtfscalper.trading.reward import RewardSettings, load_own_terms
from mtfscalper.training.job import TrainingJob

MODEL = """
import json
from pathlib import Path

import pandas as pd
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv, Positions

from mtfscalper.freqai.model import MtfScalperFreqaiModel

HERE = Path(__file__).parent


class MtfScalperRLModel(MtfScalperFreqaiModel):
    class MyRLEnv(Base5ActionRLEnv):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.idle = json.loads((HERE / "limits.json").read_text())["idle"]
            try:
                with open(HERE / "more.json") as file:
                    self.idle += json.load(file)
            except FileNotFoundError:
                pass

        def calculate_reward(self, action):
            with open(HERE / "reward.log", "a") as log:
                log.write(f"{action}\\n")
            if self._position == Positions.Neutral:
                return -self.idle * pd.read_csv(HERE / "steps.csv")["idle"].iloc[0]
            return self.get_unrealized_profit()
"""
IN_A_WORKER = """
import multiprocessing
from pathlib import Path

from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class Reading(MtfScalperFreqaiModel):
    class MyRLEnv(Base5ActionRLEnv):
        def calculate_reward(self, action):
            # Not when it is tried before the training.
            if multiprocessing.parent_process() is not None:
                return float(Path(__file__).with_name("factor.txt").read_text())
            return self.get_unrealized_profit()
"""
TERM = """
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def calm(xp, settings, transition):
    return -xp.where(transition.in_trade, 1.0, 0.0) * float((FOLDER / "calm.txt").read_text())


class Net(torch.nn.Module):
    def __init__(self, lookback, n_features, n_account):
        super().__init__()
        self.features_dim = int((FOLDER / "width.txt").read_text())
        self.layer = torch.nn.Linear(lookback * n_features + n_account, self.features_dim)

    def forward(self, candles, account):
        return self.layer(torch.cat([candles.flatten(1), account], dim=1))
"""
SCALED = """
from pathlib import Path

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class MtfScalperRLModel(MtfScalperFreqaiModel):
    def define_data_pipeline(self, threads=-1):
        with open(Path(__file__).with_name("scale.txt")) as file:
            file.read()
        return super().define_data_pipeline(threads)
"""
OWN: dict[str, Any] = {"rl_config": {"vec_env": "dummy", "model_reward_parameters": {}}}


def test_changed_files_that_its_reward_reads_train_anew(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "freqaimodels"
    models.mkdir()
    (models / "MtfScalperRLModel.py").write_text(MODEL)
    (models / "limits.json").write_text('{"idle": 0.001}')
    (models / "steps.csv").write_text("idle\n1.0\n")
    watch = Watch(monkeypatch)

    def trained() -> int:
        before = len(watch.trained)
        with caplog.at_level(logging.INFO):
            run = FreqtradeBacktest(tmp_path, market, freqai=OWN, model_path=models)
            run.run()
        for path in run.models.rglob("mtfscalper_manifest.json"):
            read = json.loads(path.read_text())["files_read"]
            assert set(read) == {f"freqaimodels/{name}" for name in ("limits.json", "more.json", "steps.csv")}
        return len(watch.trained) - before

    assert trained() == 3
    # What it writes itself grows all the time.
    assert trained() == 0
    changed = {"limits.json": '{"idle": 0.002}', "more.json": "0.001", "steps.csv": "idle\n2.0\n"}
    for name, content in changed.items():
        (models / name).write_text(content)
    caplog.clear()
    assert trained() == 3
    said = ", ".join(f"freqaimodels/{name}" for name in changed)
    assert f"is trained anew: changed since: what your code read of {said}." in caplog.text


def test_a_changed_file_that_a_hook_of_the_model_reads_trains_anew(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "freqaimodels"
    models.mkdir()
    (models / "MtfScalperRLModel.py").write_text(SCALED)
    watch, trained = Watch(monkeypatch), list[int]()
    for scale in "112":
        (models / "scale.txt").write_text(scale)
        FreqtradeBacktest(tmp_path, market, model_path=models).run()
        trained.append(len(watch.trained))
    assert trained == [3, 3, 6]


def test_a_bot_enters_nothing_by_a_policy_whose_reward_read_what_has_changed(tmp_path: Path) -> None:
    (tmp_path / "limits.json").write_text("1")
    folders = PolicyFolders(
        tmp_path / "test", Archive("test", tmp_path / "sealed", tmp_path / "locks"), Seals(tmp_path)
    )
    name = PolicyName(tmp_path / "test" / "sub-train-BTC_1", "cb_btc_1")
    name.folder.mkdir(parents=True)
    read = {str(tmp_path / "limits.json"): file_hash(tmp_path / "limits.json")}
    then = {ENTRY_MODE: "agent", DROPS_PRICES: False}
    folders.seal(name, "BTC/USDT", then, read)
    settings = tiny_settings(entry_mode="agent")
    standing = Standing.in_force(env_settings_of(settings), settings.rl)
    assert standing.since(folders.origin(name), then, [], []).changes == ()
    (tmp_path / "limits.json").write_text("2")
    assert standing.since(folders.origin(name), then, [], []).changes == ("what your code read of limits.json changed",)


def names_read(job: TrainingJob) -> set[str]:
    _, report = job.run()
    assert all(len(found) == 64 for found in report.files_read.values())
    return {Path(path).name for path in report.files_read}


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_what_a_reward_reads_in_a_worker_counts(tmp_path: Path, vec_env: str) -> None:
    (tmp_path / "factor.txt").write_text("0.5")
    settings = settings_of(model_of_a_file(tmp_path, IN_A_WORKER, "Reading"))
    job = TrainingJob(tiny_settings(entry_mode="agent", vec_env=vec_env), TAPE, None, settings)
    assert names_read(job) == ({"factor.txt"} if vec_env == "subproc" else set())


def test_what_terms_and_a_network_read_counts(tmp_path: Path) -> None:
    (tmp_path / "reading_terms.py").write_text(TERM)
    (tmp_path / "calm.txt").write_text("0.5")
    (tmp_path / "width.txt").write_text("8")
    settings = tiny_settings(entry_mode="agent", network="reading_terms:Net")
    reward = RewardSettings(terms={"reading_terms:calm": 0.2})
    network = UserNetwork.from_name("reading_terms:Net", tmp_path)
    env = replace(env_settings_of(settings), reward=reward, own_terms=load_own_terms(reward, tmp_path))
    assert names_read(TrainingJob(settings, TAPE, None, env, network=network)) == {"calm.txt", "width.txt"}
    assert names_read(TrainingJob(settings, TAPE, None, env)) == {"calm.txt"}
