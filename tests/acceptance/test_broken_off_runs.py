"""Runs that are killed or broken off in mid-training, by their command lines: what is left, and what is kept."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_commands import TRAINING
from two_pairs import Home, RunUnderWay, seen

from mtfscalper.training.fit import weights_hash

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

# Two periods for each of two pairs.
N_TRAININGS = 4
# Environments that are processes, so that there is something to leave behind; long enough to be met in the middle,
# on an idle machine too.
RL: dict[str, Any] = {"vec_env": "subproc", "train_cycles": 24}
SIDE_BY_SIDE: dict[str, Any] = {"executor": "processes", "workers": 2}
COMMANDS = ("backtesting", "train")


def home_of(folder: Path, served: tuple[Path, str], **rl: Any) -> Home:
    return Home(folder, served[1], served[0], **RL | rl)


@pytest.fixture(scope="module")
def in_turn(two_pairs: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A user directory after a backtest that trains one period after the other, to its end."""
    home = home_of(tmp_path_factory.mktemp("undisturbed") / "home", two_pairs)
    output, trades = home.backtest()
    assert output.count(TRAINING) == N_TRAININGS
    assert len(trades) > 10
    return home


@pytest.fixture(scope="module")
def undisturbed(in_turn: Home) -> pd.DataFrame:
    """Its trades."""
    return in_turn.trades()


def n_finished(run: RunUnderWay, home: Home) -> int:
    """How many trainings a run has kept: side by side as each finishes, in turn before the next one begins."""
    if home.rl["executor"] == "processes":
        return len(home.kept())
    return max(0, run.output.count(TRAINING) - 1)


def weights(home: Home) -> dict[str, str]:
    """Hashes of the policies that a run has left, by period."""
    return {path.name: weights_hash(path.read_bytes()) for path in (home.user / "models").rglob("sub-train-*/*.zip")}


def await_next_training(run: RunUnderWay, home: Home) -> set[Path]:
    """Wait until a training has finished and one after it has begun.

    :return: the shared memory that the run's environments have
    """
    run.until(lambda: n_finished(run, home))
    before = run.shared_memory()
    run.until(lambda: run.shared_memory() - before)
    return run.shared_memory()


def check_nothing_is_left(run: RunUnderWay, memory: set[Path]) -> None:
    assert [process.cmdline() for process in run.processes()] == []
    assert memory
    assert not [path for path in memory if path.exists()]
    assert not list(run.scratch.iterdir())


def test_a_backtest_with_its_trainings_side_by_side_makes_the_trades_and_policies_of_one_in_turn(
    tmp_path: Path, two_pairs: tuple[Path, str], in_turn: Home
) -> None:
    home = home_of(tmp_path / "home", two_pairs, **SIDE_BY_SIDE)
    output, trades = home.backtest()
    assert f"{N_TRAININGS} policies to train" in seen(output)
    pd.testing.assert_frame_equal(trades, in_turn.trades())
    assert weights(home) == weights(in_turn)
    assert len(set(weights(home).values())) == N_TRAININGS


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_killed_run_had_trained_the_next_one_keeps_and_trades_as_one_that_was_left_alone(
    command: str, tmp_path: Path, two_pairs: tuple[Path, str], undisturbed: pd.DataFrame
) -> None:
    home = home_of(tmp_path / "home", two_pairs, **SIDE_BY_SIDE)
    words = home.train_command() if command == "train" else home.backtest_command()
    with home.under_way(words) as run:
        memory = await_next_training(run, home)
        # The command, two trainings, and what their environments run in.
        assert len(run.processes()) >= 4
        seconds, may_take, status = run.stop(signal.SIGKILL)
        assert status == -signal.SIGKILL
        check_nothing_is_left(run, memory)
    n_kept = len(home.kept())
    print(f"{command}, SIGKILL: all ended within {seconds:.1f} s; {n_kept} of {N_TRAININGS} had been trained")
    assert seconds <= may_take
    assert 0 < n_kept < N_TRAININGS
    n_missing = N_TRAININGS - n_kept
    with home.under_way(words) as again:
        output = seen(again.ended(0))
    assert f"{n_missing} policies to train, 0 of an earlier run, {n_kept} finished by one that was stopped" in output
    assert output.count("Done training ") == n_missing
    if command == "train":
        output, _ = home.backtest()
        assert TRAINING not in output
    pd.testing.assert_frame_equal(home.trades(), undisturbed)
    assert not home.kept()


@pytest.mark.parametrize(
    ("command", "executor"), [("backtesting", "processes"), ("backtesting", "inline"), ("train", "processes")]
)
def test_ctrl_c_ends_a_run_with_all_its_processes_and_what_was_trained_is_kept(
    command: str, executor: str, tmp_path: Path, two_pairs: tuple[Path, str]
) -> None:
    home = home_of(
        tmp_path / "home", two_pairs, **(SIDE_BY_SIDE if executor == "processes" else {"executor": executor})
    )
    words = home.train_command() if command == "train" else home.backtest_command()
    with home.under_way(words) as run:
        memory = await_next_training(run, home)
        seconds, may_take, status = run.stop(signal.SIGINT)
        assert status == 130
        assert "Traceback" not in run.output
        check_nothing_is_left(run, memory)
        n_kept = n_finished(run, home)
    print(f"{command}, {executor}, Ctrl-C: all ended within {seconds:.1f} s; {n_kept} of {N_TRAININGS} kept")
    assert seconds <= may_take
    assert 0 < n_kept < N_TRAININGS
    planned = seen(home.train("--dry-run").stdout)
    # What a run side by side has trained lies beside the periods until all are there; in turn each is sealed at once.
    n_sealed, n_unsealed = (0, n_kept) if executor == "processes" else (n_kept, 0)
    expected = f"{N_TRAININGS - n_kept} policies to train, {n_sealed} reusable, {n_unsealed} trained by a run"
    assert expected in planned
