"""The commands, with their trainings on a Ray cluster of several nodes: the trades of a backtest in one process."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from marked_processes import may_take_to_stop
from ray_nodes import Nodes, kill_marked, nodes, processes_of
from test_commands import TRAINING
from two_pairs import Home, seen

import mtfscalper
from mtfscalper.offline.freqtrade_command import offline_config

pytest.importorskip("ray", reason="Ray is not installed; `make acceptance` installs it where it has a wheel")
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

N_TRAININGS = 4
# Long enough to be met in the middle.
RL: dict[str, Any] = {"train_cycles": 20}


@pytest.fixture(scope="module")
def undisturbed(two_pairs: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The trades of a backtest that trains one period after the other in its own process."""
    data, url = two_pairs
    output, trades = Home(tmp_path_factory.mktemp("undisturbed") / "home", url, data, **RL).backtest()
    assert output.count(TRAINING) == N_TRAININGS
    assert len(trades) > 10
    return trades


class ClusterHome(Home):
    """A user directory on the machine of a cluster that runs the commands: its head.

    :ivar environment: of commands there
    """

    def __init__(self, folder: Path, data: Path, cluster: Nodes) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        rl = RL | {"executor": "ray", "ray_address": cluster.address}
        super().__init__(folder, f"http://127.0.0.1:{self._port}", data, **rl)
        self._cluster = cluster
        paths = [str(Path(mtfscalper.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = cluster.environment(0, PYTHONPATH=os.pathsep.join(paths))

    def there(self, command: list[str]) -> list[str]:
        """A command, as the head runs it."""
        return self._cluster.command(0, command)

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """The loopback exchange of the head, whose loopback address is its own."""
        words = [sys.executable, "-m", "mtfscalper.cli", "replay-exchange", "--datadir", str(self.data)]
        with self.under_way(self.there([*words, "--port", str(self._port)]), self.environment) as exchange:
            exchange.until(lambda: f":{self._port}" in exchange.output)
            yield


@pytest.fixture
def cluster() -> Iterator[tuple[Nodes, list[str]]]:
    # Of a short name: sockets lie in it.
    with (
        tempfile.TemporaryDirectory(prefix="rlt-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        nodes(Path(folder), 2) as made,
    ):
        yield made


def trains(node: str) -> bool:
    """Whether a node runs a training."""
    return any(process.cmdline()[:1] == ["ray::train"] for process in processes_of(node))


def test_a_backtest_on_a_cluster_that_loses_a_node_makes_the_trades_of_one_process(
    tmp_path: Path, two_pairs: tuple[Path, str], cluster: tuple[Nodes, list[str]], undisturbed: pd.DataFrame
) -> None:
    running, (first, second) = cluster
    home = ClusterHome(tmp_path / "home", two_pairs[0], running)
    with home.exchange(), home.under_way(home.there(home.backtest_command()), home.environment) as run:
        run.until(lambda: trains(first) and trains(second))
        kill_marked(first)
        output = seen(run.ended(0))
    assert output.count("It is trained again, from its beginning.") == 1
    assert output.count("Done training ") == N_TRAININGS
    pd.testing.assert_frame_equal(home.trades(), undisturbed)


def test_what_a_cluster_had_trained_for_a_driver_that_was_killed_is_not_trained_again(
    tmp_path: Path, two_pairs: tuple[Path, str], cluster: tuple[Nodes, list[str]], undisturbed: pd.DataFrame
) -> None:
    running, there = cluster
    home = ClusterHome(tmp_path / "home", two_pairs[0], running)
    with home.exchange():
        with home.under_way(home.there(home.backtest_command()), home.environment) as run:
            run.until(home.kept)
            _, _, status = run.stop(signal.SIGKILL)
            assert status == -signal.SIGKILL
        n_kept = len(home.kept())
        assert 0 < n_kept < N_TRAININGS
        # Ray ends what the driver had asked for; the nodes are there for the next one.
        deadline = time.monotonic() + may_take_to_stop(0)
        while any(trains(node) for node in there) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not any(trains(node) for node in there)
        with home.under_way(home.there(home.backtest_command()), home.environment) as again:
            output = seen(again.ended(0))
    n_missing = N_TRAININGS - n_kept
    assert f"{n_missing} policies to train, 0 of an earlier run, {n_kept} finished by one that was stopped" in output
    assert output.count("Done training ") == n_missing
    pd.testing.assert_frame_equal(home.trades(), undisturbed)
    assert not home.kept()


def test_what_is_trained_on_a_cluster_is_traded_as_what_one_process_trains(
    tmp_path: Path, two_pairs: tuple[Path, str], cluster: tuple[Nodes, list[str]], undisturbed: pd.DataFrame
) -> None:
    home = ClusterHome(tmp_path / "home", two_pairs[0], cluster[0])
    with home.exchange(), home.under_way(home.there(home.train_command()), home.environment) as run:
        output = seen(run.ended(0))
    assert "runs 2 trainings at once" in output
    assert f"{N_TRAININGS} policies trained" in output
    # Without the cluster.
    values = home.values()
    values["freqai"]["rl_config"] |= {"executor": "inline", "ray_address": None}
    values["exchange"] |= offline_config(two_pairs[1])["exchange"]
    home.write(values)
    output, trades = home.backtest()
    assert TRAINING not in output
    pd.testing.assert_frame_equal(trades, undisturbed)
