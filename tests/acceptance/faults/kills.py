"""Moments to kill a run at, and what must be true after it has been run again."""

from __future__ import annotations

import time
from random import Random

from faults.homes import N_PERIODS, TRAINING, Ended, Home, Trades, group_members

N_KILLS = 15


def moments(seconds: float, seed: str) -> list[float]:
    """Random moments of a run, one in each of as many equal parts of it."""
    random = Random(seed)
    return [(part + random.random()) / N_KILLS * seconds for part in range(N_KILLS)]


def phase_of(output: str) -> str:
    """What a backtest was doing, by its output."""
    n_trained = output.count("Done training")
    if "BACKTESTING REPORT" in output or "dumping json" in output:
        return "reporting"
    if "Backtesting with data from" in output:
        return "trading"
    if n_trained == N_PERIODS:
        return "after the last training"
    if TRAINING in output:
        return f"training or sealing {output.count(TRAINING)}"
    return "starting"


def why_not_killed_well(home: Home, pid: int, again: Ended, expected: Trades) -> str | None:
    """What is wrong after a kill and another run.

    :param pid: of the process that was killed
    """
    wrong = again.why_not_as(expected)
    if wrong is not None:
        return wrong
    if home.strays():
        return f"left behind: {home.strays()}"
    # A worker that waits for its next step sees only then that nobody gives it one.
    deadline = time.monotonic() + 15
    while members := group_members(pid):
        if time.monotonic() > deadline:
            return f"processes left behind: {members}"
        time.sleep(0.1)
    return None
