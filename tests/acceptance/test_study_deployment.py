"""A study by its commands, from its first trial to a bot that follows what it deployed, with an open trade."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from faults.bots import DONE_TRAINING, Bot, running_bot
from faults.homes import CONFIG, FREQAI, USER_CODE, Home
from faults.warm import PATHS
from shipped import shipped_options

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import freqtrade_command

# Each starts a dozen commands.
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

STUDY = "small"
VALIDATION, WHOLE, LOCKED_DAYS = "20240905-20240908", "20240905-20240910", 2
SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "net_arch": {"type": "categorical", "choices": [[16], [24]]},
}
LONGEST_SECONDS = 900
# The strategy of the bot, whose analyses the test waits for.
OPTIONS = {**shipped_options(), "strategy": "WaitingStrategy", "strategy_path": str(USER_CODE)}
# Before hours with many signals, each of which is a trade.
START = datetime(2024, 9, 7, 23, 45, 30, tzinfo=UTC)
CREDENTIALS = {"FREQTRADE__API_SERVER__USERNAME": "me", "FREQTRADE__API_SERVER__PASSWORD": "s3cret"}


class Studied:
    """A user directory with a study in it.

    :ivar config: the user's own config file
    """

    def __init__(self, folder: Path, market: Path, url: str) -> None:
        self.home = Home(folder, market, url)
        self.config = self.home.overlay({"rl_config": {**FREQAI["rl_config"], "search_space": SPACE}})

    def study(self, subcommand: str, *words: str, status: int = 0, environment: Mapping[str, str] | None = None) -> str:
        """Run a subcommand of ``mtfscalper study``.

        :return: what it prints, in one line
        """
        command = [sys.executable, "-m", "mtfscalper.cli", "study", subcommand, *words]
        ended = subprocess.run(
            command,
            cwd=self.home.folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, PATHS)),
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "1000",
                **(environment or {}),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SECONDS,
        )
        output = " ".join((ended.stdout + ended.stderr).split())
        assert ended.returncode == status, output
        assert "Traceback" not in output
        return output

    def run(self, trials: int) -> str:
        words = ["--study", STUDY, "--trials", str(trials), "--seeds", "1", "--test-seeds", "2", "--seed", "7"]
        words += ["--holdout-days", str(LOCKED_DAYS), "--config", str(CONFIG), "--config", str(self.config)]
        words += ["--userdir", str(self.home.user), "--datadir", str(self.home.market), "--timerange", WHOLE]
        for name, value in OPTIONS.items():
            words += [f"--{name.replace('_', '-')}", value]
        return self.study("run", *words)

    def judge(self, *words: str, status: int = 1) -> str:
        return self.study("judge", "--study", STUDY, "--userdir", str(self.home.user), *words, status=status)

    def deploy(self, *words: str, status: int = 0, environment: Mapping[str, str] | None = None) -> str:
        where = ("--study", STUDY) if "--rollback" not in words else ("--name", STUDY)
        return self.study(
            "deploy", *where, "--userdir", str(self.home.user), *words, status=status, environment=environment
        )

    @property
    def deployed(self) -> Path:
        return self.home.user / "deployed" / f"{STUDY}.json"

    @property
    def section(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.deployed.read_text())["mtfscalper_deployment"]
        return found

    def log(self) -> list[dict[str, Any]]:
        lines = (self.home.user / "deployed" / "deployments.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def backtest(self) -> list[dict[str, Any]]:
        """The trades of the deployed config on the validation candles, by the command."""
        results = self.home.new("results")
        results.mkdir()
        command = freqtrade_command(
            "backtesting",
            [CONFIG, self.config, self.deployed],
            userdir=self.home.user,
            # The trials' own, which end before the locked ones begin.
            datadir=self.home.user / "studies" / STUDY / "candles",
            timerange=VALIDATION,
            backtest_directory=results,
            cache="none",
            no_color=True,
            **{name: value for name, value in OPTIONS.items() if name.endswith("path")},
        )
        ended = self.home.run(command)
        assert ended.status == 0, ended.output
        assert ended.trades is not None
        return ended.trades


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, market: Path) -> Iterator[Studied]:
    """A study of three trials."""
    with ReplayExchange(market) as exchange:
        made = Studied(tmp_path_factory.mktemp("studied") / "home", market, exchange.url)
        made.run(3)
        yield made


def looks(studied: Studied) -> list[str]:
    path = studied.home.user / "studies" / STUDY / "judgements.jsonl"
    return [json.loads(line)["state"] for line in path.read_text().splitlines()] if path.exists() else []


def trades_of_trial(studied: Studied, number: int) -> pd.DataFrame:
    [path] = (studied.home.user / "studies" / STUDY / "trials" / str(number)).glob("seed_*.feather")
    return pd.read_feather(path)


def test_from_a_study_to_a_backtest_of_what_it_deployed(studied: Studied) -> None:
    assert "has not been judged" in studied.deploy(status=2)
    assert not studied.deployed.exists()
    told = studied.judge()
    assert looks(studied) == ["begun", "done"]
    # Two days are too few to say anything, and what cannot be said is not passed.
    assert "an interval needs 30 days" in told
    assert "Not passed: paired difference a day" in told
    assert "look 1" in told
    assert "nothing was run" in studied.judge()
    assert looks(studied) == ["begun", "done"]
    models = {path.name for path in (studied.home.user / "models").iterdir() if not path.name.startswith(".")}
    # Those of the best trial stay; those that were trained to judge do not.
    assert len([name for name in models if name.startswith(f"study_{STUDY}_")]) == 1
    assert "did not pass" in studied.deploy(status=2)
    told = studied.deploy("--force", "to see that it is the trial")
    assert str(studied.deployed) in told
    number = studied.section["trial"]
    assert (studied.section["passed"], studied.section["forced"]) == (False, "to see that it is the trial")
    assert studied.section["gates"][0]["key"] == "interval"
    # Trained anew under the line's own identifier, the very trades of the trial.
    expected, found = trades_of_trial(studied, number), studied.backtest()
    assert len(expected) > 5
    assert [trade["open_timestamp"] for trade in found] == expected["open_ms"].tolist()
    assert [trade["close_rate"] for trade in found] == expected["close_rate"].tolist()
    assert [trade["profit_ratio"] for trade in found] == expected["profit_ratio"].tolist()
    assert [trade["exit_reason"] for trade in found] == expected["exit_reason"].tolist()


def test_another_trial_is_another_look_and_a_rollback_takes_it_back(studied: Studied) -> None:
    before = len(looks(studied))
    first = studied.section["trial"] if studied.deployed.exists() else None
    others = [number for number in range(3) if number != first]
    told = studied.judge("--trial", str(others[0]))
    assert looks(studied)[before:] == ["begun", "done"]
    for number in others:
        studied.deploy("--trial", str(number), "--force", "to take it back")
    assert studied.section["trial"] == others[1]
    assert "is put back" in studied.deploy("--rollback")
    assert studied.section["trial"] == others[0]
    assert "look 2" in told or first is None
    assert [record["action"] for record in studied.log()][-3:] == ["deploy", "deploy", "rollback"]


def test_requests_that_cannot_be_are_told_in_one_line(studied: Studied, tmp_path: Path) -> None:
    user = ("--userdir", str(studied.home.user))
    for words, said in (
        (("judge", "--study", "none", *user), "does not exist"),
        (("judge", "--study", STUDY, *user, "--trial", "99"), "--trial is 99, which is not there"),
        (("deploy", "--study", STUDY, *user, "--force", " "), "--force is empty"),
        (("deploy", "--study", STUDY, *user, "--rollback", "--trial", "1"), "--trial means nothing with --rollback"),
        (("deploy", *user), "--study is missing"),
        (("deploy", "--name", "../up", *user, "--rollback"), "--name is '../up'"),
        (("deploy", "--name", "nothing", *user, "--rollback"), "is no config that was deployed"),
        (("deploy", "--study", STUDY, *user, "--reload", "http://me:pw@127.0.0.1"), "one with credentials"),
    ):
        told = studied.study(*words, status=2)
        assert said in told
        assert told.count("error: ") == 1
        assert "pw@" not in told


# ---------------------------------------------------------------------- a bot


def open_trade(database: Path) -> tuple[int, str | None] | None:
    """The open trade of a bot and the policy that its custom data names."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = connection.execute("select id from trades where is_open = 1").fetchall()
        if not found:
            return None
        [(trade,)] = found
        named = connection.execute(
            "select cd_value from trade_custom_data where ft_trade_id = ? and cd_key = 'rl_policy'", (trade,)
        ).fetchall()
    return trade, named[0][0] if named else None


def until_a_trade_is_open(bot: Bot, database: Path) -> tuple[int, str | None]:
    for _ in range(60):
        bot.decide(1)
        found = open_trade(database)
        if found is not None and found[1] is not None:
            return found
    raise AssertionError(f"no trade is opened: {bot.process.output}")


def test_an_open_trade_finds_its_policy_across_deployment_and_rollback(studied: Studied, tmp_path: Path) -> None:
    """The bot follows one line; a trial of another network is deployed and taken back, while its trade stands open."""
    home, path = studied.home, studied.deployed
    shutil.rmtree(path.parent, ignore_errors=True)
    # What the backtests of other tests left: the bot would go on with it, and train when that is old enough.
    for models in (home.user / "models", home.user / "models" / ".sealed"):
        shutil.rmtree(models / f"deployed_{STUDY}", ignore_errors=True)
    trials = sorted((home.user / "studies" / STUDY / "trials").iterdir(), key=lambda trial: int(trial.name))
    nets = {
        trial.name: json.loads((trial / "overlay.json").read_text())["freqai"]["rl_config"]["net_arch"]
        for trial in trials
    }
    first = trials[0].name
    other = next(number for number, net in nets.items() if net != nets[first])
    studied.deploy("--trial", first, "--force", "for the bot")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database, url = home.new("sqlite"), f"http://127.0.0.1:{port}"
    server = {
        "enabled": True,
        "listen_ip_address": "127.0.0.1",
        "listen_port": port,
        "username": CREDENTIALS["FREQTRADE__API_SERVER__USERNAME"],
        "password": CREDENTIALS["FREQTRADE__API_SERVER__PASSWORD"],
        "jwt_secret_key": "x" * 32,
    }
    # A policy that has learned nothing seldom leaves, and is asked at every candle.
    settings = {"rl_config": {"entry_mode": "classic", "initial_exit_probability": 0.001}, "live_retrain_hours": 24}
    policies = home.user / "models" / f"deployed_{STUDY}"
    with running_bot(home, START, settings, database=database, configs=[path], api_server=server) as bot:
        trade, policy = until_a_trade_is_open(bot, database)
        assert (policies / str(policy)).is_dir()
        # Deployed, and the bot told.
        told = studied.deploy("--trial", other, "--force", "another net", "--reload", url, environment=CREDENTIALS)
        assert "has read its config again and runs" in told
        bot.next_frame()
        # It is asked at the next candle, by the policy that it had, until one of the new settings is trained.
        assert open_trade(database) == (trade, policy)
        bot.await_output(DONE_TRAINING, times=2)
        bot.decide(2)
        again, new = open_trade(database) or (None, None)
        assert again == trade
        assert new != policy
        assert (policies / str(new)).is_dir()
        assert (policies / str(policy)).is_dir()
        # And back.
        told = studied.deploy("--rollback", "--reload", url, environment=CREDENTIALS)
        assert "has read its config again and runs" in told
        bot.next_frame()
        assert open_trade(database) == (trade, new)
        bot.await_output(DONE_TRAINING, times=3)
        bot.decide(2)
        assert (policies / str((open_trade(database) or (0, ""))[1])).is_dir()
        bot.stop()
        output = bot.process.output
    assert "Traceback" not in output
    told_of = [line for line in output.splitlines() if "was trained with something else" in line and "WARNING" in line]
    assert len(told_of) == 2
    assert all(re.search(r"learning_rate is \S+ and was \S+;", line) for line in told_of)
    [*_, reload] = [record for record in studied.log() if record["action"] == "reload"]
    assert (reload["ok"], reload["url"]) == (True, url)
    assert CREDENTIALS["FREQTRADE__API_SERVER__PASSWORD"] not in "".join(
        file.read_text(errors="replace") for file in path.parent.rglob("*") if file.is_file()
    )
