"""A bot that is told to stop stops, whatever it is doing and whoever of its processes hears it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from faults.bots import FIRST_START, INTERRUPTED, Bot, running_bot
from faults.homes import TRAINING, Home
from faults.tally import Tally

pytestmark = pytest.mark.acceptance

# Long enough to be met in the middle.
SUBPROC = {"vec_env": "subproc", "train_cycles": 30}
# Of its thousands.
N_WORKERS, N_STEPS = 2, 100


class Stop(NamedTuple):
    """Who hears which signal.

    :ivar where: ``live_training``
    :ivar sends: the signal, to a process and those that it started
    """

    where: str
    sends: Callable[[int, list[psutil.Process]], None]


def to_all(leader: int, others: list[psutil.Process]) -> None:
    """As systemd does with KillMode=control-group."""
    for process in (*others, psutil.Process(leader)):
        process.send_signal(signal.SIGTERM)


def to_it(leader: int, _: list[psutil.Process]) -> None:
    """As docker stop, and systemd with KillMode=mixed."""
    os.kill(leader, signal.SIGTERM)


def to_its_group(leader: int, _: list[psutil.Process]) -> None:
    """As a terminal's, a supervisor's or a shell's ``kill -TERM -PID``."""
    os.killpg(leader, signal.SIGTERM)


def interrupt(leader: int, _: list[psutil.Process]) -> None:
    """As Ctrl-C."""
    os.killpg(leader, signal.SIGINT)


STOPS = [
    *(Stop("thread", sends) for sends in (to_all, to_it, to_its_group, interrupt)),
    *(Stop("process", sends) for sends in (to_all, to_it, interrupt)),
]


def waits_of(leader: psutil.Process) -> dict[int, int]:
    """How often each process that a bot has started has waited so far."""
    waits = {}
    for process in leader.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            waits[process.pid] = process.num_ctx_switches().voluntary
    return waits


def retrains(bot: Bot, n_more: int) -> list[psutil.Process]:
    """Let a bot that has decided begin its next training.

    :param n_more: processes that it starts for that
    :return: all that the bot has started
    """
    began, leader = bot.process.output.count(TRAINING), psutil.Process(bot.process.process.pid)
    n_before = len(leader.children(recursive=True))
    bot.clock.next_candle(13)
    bot.await_output(TRAINING, began + 1)
    bot.wait_for(lambda: len(leader.children(recursive=True)) >= n_before + n_more)
    # Into the steps of the environments: a worker waits for each anew.
    before = waits_of(leader)
    bot.wait_for(lambda: sum(n >= before.get(pid, 0) + N_STEPS for pid, n in waits_of(leader).items()) >= N_WORKERS)
    return leader.children(recursive=True)


@pytest.mark.parametrize("stop", STOPS, ids=[f"{stop.sends.__name__}, {stop.where}" for stop in STOPS])
def test_a_bot_told_to_stop_in_the_middle_of_a_training_stops_and_leaves_nothing(
    tmp_path: Path, market: Path, tally: Tally, stop: Stop
) -> None:
    home = Home(tmp_path / "home", market, "")
    settings = {"live_retrain_hours": 1, "rl_config": {**SUBPROC, "live_training": stop.where}}
    with running_bot(home, FIRST_START, settings) as bot:
        bot.decide(2)
        # Two workers; in a process of its own it has a server that they are forked from, and what tracks memory.
        others = retrains(bot, 2 if stop.where == "thread" else 4)
        pid, began = bot.process.process.pid, time.monotonic()
        said = len(bot.process.output)
        stop.sends(pid, others)
        ended = bot.process.end()
        seconds = time.monotonic() - began
        _, alive = psutil.wait_procs(others, timeout=5)
        # One that has ended and that nobody has asked for its status yet is no process any more.
        left = [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
        output = ended.output[said:]
    print(output)
    wrong = None
    if ended.status != INTERRUPTED:
        wrong = f"exit status {ended.status}: {output}"
    elif any(word in output for word in ("Traceback", "memory", " - ERROR - ", " - WARNING - ")):
        wrong = f"it complains: {output}"
    elif sum("given up" in line for line in output.splitlines()) != 1:
        wrong = f"not one line says that the training is given up: {output}"
    elif left or home.strays():
        wrong = f"left behind: {left or home.strays()}"
    with tally.of("a bot told to stop in the middle of a training") as group:
        group.add(f"{stop.sends.__name__}, {stop.where}", wrong)
        group.notes.append(f"{seconds:.1f} s")
    assert wrong is None
    assert (home.models / "historic_predictions.pkl").is_file()
    # Nobody holds the identifier, and what was predicted is known.
    with running_bot(home, FIRST_START, settings) as again:
        again.await_output("state to: RUNNING")
        assert "was not sealed" not in again.process.output
