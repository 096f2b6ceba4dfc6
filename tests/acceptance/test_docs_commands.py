"""Commands as the docs print them, one after the other in a folder as a user has it, on candles that are made up.

The configs that ``mtfscalper init`` puts there are made as small as they can be, and ask an exchange of this machine.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_commands import AS_PRINTED, ROOT
from tiny_rl import TINY_RL

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import offline_config
from mtfscalper.offline.synthetic import write_market

pytestmark = pytest.mark.acceptance

PAIR = "BTC/USDT:USDT"
TINY: dict[str, Any] = {
    **TINY_RL,
    "entry_mode": "classic",
    "initial_exit_probability": 0.3,
    "vec_env": "batched",
}
LONGEST_SECONDS = 1200
# Nobody's bot has run there; what serves until Ctrl-C may be interrupted before it has begun to wait.
STATUS = {"mtfscalper status": (3,), "mtfscalper replay-exchange": (0, 130)}


class Folder:
    """A user's folder.

    :ivar said: what each command printed
    """

    def __init__(self, path: Path, url: str) -> None:
        self.path, self._url = path, url
        self.said: dict[str, str] = {}

    def give(self, line: str) -> None:
        """Give a command as it is printed, and require the exit status that it promises."""
        words = [sys.executable, "-m", *self._with_own(shlex.split(line))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.path / "home"), "OMP_NUM_THREADS": "1"}
        environment["COLUMNS"] = "200"
        with subprocess.Popen(
            words, cwd=self.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            said = ""
            if line.startswith("mtfscalper replay-exchange"):
                # It serves until it is stopped, and tells at last which config it has written.
                while ("--write-config" in line and "--config" not in said) or "Replay exchange at" not in said:
                    read = process.stdout.readline()
                    assert read, said
                    said += read
                process.send_signal(signal.SIGINT)
            said += process.communicate(timeout=LONGEST_SECONDS)[0]
        self.said[line] = said
        expected = next((status for words, status in STATUS.items() if line.startswith(words)), (0,))
        assert process.returncode in expected, f"{line}\n{said[-4000:]}"

    def _with_own(self, words: list[str]) -> list[str]:
        """A program's module, and words of this folder's in the place of those that stand for a user's."""
        if words[1] == "replay-exchange" and "--port" not in words:
            # Another program may listen at the usual one.
            words = [*words, "--port", "0"]
        if "RESULT.zip" in words:
            results = (self.path / "user_data" / "backtest_results").glob("*.zip")
            words[words.index("RESULT.zip")] = str(max(results, key=lambda path: path.stat().st_mtime))
        own = {"DIR": "user_data/data/binance", "CONFIG": "user_data/config.json", "~/freqtrade": "home/freqtrade"}
        return [own.get(word, word) for word in words]

    def prepare(self) -> None:
        """Make what ``init`` has copied small, and put beside it what else a user has."""
        whole = json.loads((self.path / "configs" / "config_rl_hybrid.json").read_text())
        whole["exchange"] = {**offline_config(self._url)["exchange"], "pair_whitelist": [PAIR], "pair_blacklist": []}
        whole["max_open_trades"] = 1
        whole["freqai"] |= {"train_period_days": 2, "backtest_period_days": 16, "activate_tensorboard": False}
        whole["freqai"]["rl_config"] |= TINY
        self._write("configs/config_rl_hybrid.json", whole)
        fast = json.loads((self.path / "configs" / "config_rl_fast.json").read_text())
        fast["freqai"]["rl_config"] |= {"n_envs": 4, "n_steps": 32}
        self._write("configs/config_rl_fast.json", fast)
        offline = offline_config(self._url)
        self._write("configs/offline.json", offline)
        named = {
            "strategy": "MtfScalper_RL_Hybrid",
            "freqaimodel": "MtfScalperRLModel",
            "timerange": "20241001-20241101",
        }
        self._write("user_data/config.json", {**whole, **named})
        self._write("your_config.json", {**whole, "freqai": {**whole["freqai"], "identifier": "yours"}})
        hybrid = (self.path / "strategies" / "MtfScalper_RL_Hybrid.py").read_text(encoding="utf-8")
        yours = hybrid.replace("class MtfScalper_RL_Hybrid", "class YourStrategy")
        (self.path / "strategies" / "YourStrategy.py").write_text(yours, encoding="utf-8")
        for folder in ("user_data/data", "user_data/backtest_results", "user_data/offline/backtest_results"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)

    def _write(self, name: str, values: dict[str, Any]) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(json.dumps(values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """With its candles at an exchange of this machine."""
    home = tmp_path_factory.mktemp("docs")
    candles = home / "user_data" / "data" / "binance"
    write_market(candles, pairs=(PAIR,))
    (home / "home").mkdir()
    with ReplayExchange(candles) as exchange:
        yield Folder(home, exchange.url)


def test_every_command_that_needs_no_exchange_works_as_it_is_printed(folder: Folder) -> None:
    for line in AS_PRINTED:
        print(line, flush=True)
        folder.give(line)
        if line == "mtfscalper init":
            folder.prepare()
    said = {line: " ".join(text.split()) for line, text in folder.said.items()}
    # And does what it is printed for.
    planned, trained = (said[f"mtfscalper train {more}--config CONFIG"] for more in ("--dry-run ", ""))
    assert "2 policies to train" in planned
    assert "2 policies trained" in trained
    backtests = [text for line, text in said.items() if line.startswith("freqtrade backtesting")]
    assert len(backtests) == 4
    assert all("BACKTESTING REPORT" in text for text in backtests)
    assert "evidence" in said["mtfscalper report"] or "policy" in said["mtfscalper report"]
    for name in ("report.html", "report.json", "exchange.json", "mine.json"):
        assert (folder.path / name).stat().st_size > 0
    assert (folder.path / "home" / "freqtrade" / "configs" / "config_rl_hybrid.json").is_file()
    assert (folder.path / "market" / "synthetic_market.json").is_file()
