"""A bot that is told to stop stops, whatever it is doing and whoever of its processes hears it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.bots import FIRST_START, INTERRUPTED, Bot, running_bot
from faults.homes import MARKET, PAIR, TRAINING, Home, group_members
from faults.tally import Tally

from mtfscalper.offline.synthetic import write_market

pytestmark = pytest.mark.acceptance

# Long enough to be met in the middle.
SUBPROC = {"live_retrain_hours": 1, "rl_config": {"vec_env": "subproc", "train_cycles": 30}}
# Docker's, after which it kills.
STOP_SECONDS = 10


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    made = Tally()
    yield made
    print(f"\n{made}")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datadir = tmp_path_factory.mktemp("market")
    write_market(datadir, start=MARKET[0], stop=MARKET[1], pairs=[PAIR])
    return datadir


def retrains(bot: Bot) -> None:
    """Let a bot that has decided begin its next training, in worker processes."""
    began = bot.process.output.count(TRAINING)
    bot.clock.next_candle(13)
    bot.await_output(TRAINING, began + 1)
    deadline = time.monotonic() + 60
    # Itself, the server that workers are forked from, what tracks shared memory, and two workers that play.
    while sum(process.num_threads() > 0 for process in group_members(bot.process.process.pid)) < 5:
        assert time.monotonic() < deadline, bot.process.output
        time.sleep(0.05)
    time.sleep(1.0)


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGINT, False)],
    ids=["systemd", "Ctrl-C", "docker stop", "SIGINT to it alone"],
)
def test_a_bot_told_to_stop_in_the_middle_of_a_training_stops_and_leaves_nothing(
    tmp_path: Path, market: Path, tally: Tally, number: signal.Signals, to_group: bool
) -> None:
    home = Home(tmp_path / "home", market, "")
    with running_bot(home, FIRST_START, SUBPROC) as bot:
        bot.decide(2)
        retrains(bot)
        pid, began = bot.process.process.pid, time.monotonic()
        said = len(bot.process.output)
        (os.killpg if to_group else os.kill)(pid, number)
        ended = bot.process.end()
        seconds = time.monotonic() - began
        output = ended.output[said:]
        left = group_members(pid)
    print(output)
    with tally.of("a bot told to stop in the middle of a training") as group:
        wrong = None
        if ended.status != INTERRUPTED:
            wrong = f"exit status {ended.status}"
        elif "Traceback" in output or "memory" in output or " - ERROR - " in output:
            wrong = f"it complains: {output}"
        elif left:
            wrong = f"left behind: {left}"
        elif home.strays():
            wrong = f"left behind: {home.strays()}"
        elif seconds > STOP_SECONDS:
            wrong = f"it took {seconds:.1f} s"
        group.add(f"{number.name} {'to its group' if to_group else 'to it alone'}", wrong)
        group.notes.append(f"{seconds:.1f} s")
    assert output.count("is given up") == 1
    assert (home.models / "historic_predictions.pkl").is_file()
    # Nobody holds the identifier, and what was predicted is known.
    with running_bot(home, FIRST_START, SUBPROC) as again:
        again.await_output("Changing state to: RUNNING")
        assert "was not sealed" not in again.process.output
