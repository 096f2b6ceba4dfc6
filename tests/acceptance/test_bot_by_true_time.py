"""``mtfscalper replay-exchange`` and ``freqtrade trade``, as docs/dry-run.md says, by the computer's own clock."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.bots import INTERRUPTED
from faults.homes import kill_group
from tiny_rl import TINY_RL

from mtfscalper.freqai.health import HEALTH_NAME
from mtfscalper.offline.starter import starter_files

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "dry-run.md"
PAIRS = {"BTC/USDT:USDT", "ETH/USDT:USDT"}
LONGEST_SECONDS = 600
# A policy of seconds; the rest is what the page's commands say.
OWN = {
    "freqai": {"train_period_days": 2, "activate_tensorboard": False, "rl_config": {**TINY_RL, "threads_per_job": 1}}
}

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.name == "nt", reason="Ctrl-C, which Windows cannot send to one of its processes"),
]


def documented() -> list[list[str]]:
    """The two commands of the page's last section, without the shell's own."""
    section = PAGE.read_text(encoding="utf-8").partition("## A bot by true time")[2]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs in the folder of its log, the leader of a group of its own."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "1000", "NO_COLOR": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill_group(process.pid)
        process.wait()


def await_it(seen: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for something that a process does."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not seen():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_the_commands_of_the_page_trade_without_a_traceback_and_stop_in_order(tmp_path: Path) -> None:
    for name in starter_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "own.json").write_text(json.dumps(OWN))
    (program, *serve), (freqtrade, *trade) = documented()
    assert (program, freqtrade) == ("mtfscalper", "freqtrade")
    config = tmp_path / serve[serve.index("--write-config") + 1]
    exchange_log, bot_log = tmp_path / "exchange.log", tmp_path / "bot.log"
    health = tmp_path / "user_data" / "offline" / "models" / "mtf_scalper_rl" / HEALTH_NAME

    def every_pair_is_trained() -> bool:
        pairs = json.loads(health.read_text())["pairs"] if health.exists() else {}
        # It was analysed before that.
        return {pair for pair, its in pairs.items() if its["ended_at"] and its["trained_at"]} == PAIRS

    # Another port than the documented one, which somebody may use.
    served = [sys.executable, "-m", "mtfscalper.cli", *serve, "--port", "0"]
    traded = [sys.executable, "-m", "freqtrade", *trade, "--config", "own.json"]
    with started(served, exchange_log) as exchange:
        await_it(lambda: "freqtrade uses it with" in exchange_log.read_text(), exchange, exchange_log)
        assert config.is_file()
        with started(traded, bot_log) as bot:
            await_it(every_pair_is_trained, bot, bot_log)
            os.kill(bot.pid, signal.SIGINT)
            assert bot.wait(LONGEST_SECONDS) == INTERRUPTED, bot_log.read_text()
        os.kill(exchange.pid, signal.SIGTERM)
        assert exchange.wait(LONGEST_SECONDS) == 0, exchange_log.read_text()
    said = bot_log.read_text()
    print(said[-3000:])
    for text in (said, exchange_log.read_text()):
        assert "Traceback" not in text
        assert " - ERROR - " not in text
    assert json.loads(health.read_text())["stopped_at"] > 0
