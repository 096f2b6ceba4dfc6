"""Whatever happens to a run's process, files and disk: it ends as it would have, after one more start at the most.

Kills, damaged files, runs that overtake each other, full and read-only disks, and analyses that delete what they did
not make: each through the freqtrade command, and each compared with the same run undisturbed, trade by trade. The table
of what was tried, survived and lost stands at the end of the output.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from faults.damages import MARKER, Damage, damages
from faults.homes import MARKET, N_PERIODS, PAIR, USER_CODE, Ended, Home, Trades, kill_group, n_policy_exits
from faults.tally import Group, Tally
from faults.warm import WarmServer, WarmServers

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.synthetic import write_market

pytestmark = pytest.mark.acceptance

N_SERVERS = 2
MakeHome = Callable[[], Home]


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


@pytest.fixture(scope="module")
def url(market: Path) -> Iterator[str]:
    with ReplayExchange(market) as exchange:
        yield exchange.url


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmServers]:
    with WarmServers(N_SERVERS) as servers:
        yield servers


@pytest.fixture
def make_home(tmp_path: Path, market: Path, url: str) -> MakeHome:
    numbers = itertools.count()
    return lambda: Home(tmp_path / f"home{next(numbers)}", market, url)


def undisturbed(home: Home, freqai: dict[str, Any] | None = None, **options: Any) -> Trades:
    """The trades of a backtest that nothing happens to; policy exits are among them."""
    ended = home.run(home.backtesting(freqai, **options).command)
    assert ended.why_not_as(ended.trades or []) is None
    assert ended.trades is not None
    assert n_policy_exits(ended.trades) >= 3
    return ended.trades


# ---------------------------------------------------------------------- two processes at a time


STRATEGY = {"strategy": "WaitingStrategy", "strategy_path": str(USER_CODE)}
MODEL = {"freqaimodel": "WaitingModel", "freqaimodel_path": str(USER_CODE)}
# Each makes other policies or other trades of the same candles.
OTHERS: tuple[dict[str, Any], ...] = (
    {"rl_config": {"learning_rate": 0.01}},
    {"rl_config": {"seed": 7}},
    {"rl_config": {"max_trade_duration_candles": 12}},
    {"rl_config": {"learning_rate": 0.003, "max_trade_duration_candles": 24}},
)


def await_file(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"{folder} has no {pattern}"
        time.sleep(0.05)


def await_output(read: Callable[[], str], text: str) -> None:
    deadline = time.monotonic() + 120
    while text not in read():
        assert time.monotonic() < deadline, read()
        time.sleep(0.05)


def test_the_same_backtest_twice_at_once_trains_every_period_once(make_home: MakeHome, tally: Tally) -> None:
    expected = undisturbed(make_home())
    home = make_home()
    with tally.of("4a the same backtest twice at once") as group:
        for pause in (0.0, 1.0, 3.0):
            home = make_home()
            with home.started(home.backtesting().command) as first:
                time.sleep(pause)
                with home.started(home.backtesting().command) as second:
                    both = [first.end(), second.end()]
            for ended in both:
                group.add(f"started {pause} s apart", ended.why_not_as(expected))
            assert sum(ended.n_trained for ended in both) == N_PERIODS
            assert home.strays() == []


def test_a_run_trades_by_its_own_policies_whatever_others_of_its_identifier_do_meanwhile(
    make_home: MakeHome, tally: Tally, tmp_path: Path
) -> None:
    """It is held before its first decision about a trade; the others, more than are kept, run whole meanwhile."""
    expected = undisturbed(make_home(), **STRATEGY)
    alone = [undisturbed(make_home(), other) for other in OTHERS]
    # Else nothing would show that two were mixed up.
    assert all(one != another for one, another in itertools.combinations([expected, *alone], 2))
    home = make_home()
    with tally.of("4b others' settings in the middle of a run") as group:
        waits = {"FAULTS_WAITS_IN_FIRST_EXIT": str(tmp_path)}
        with home.started(home.backtesting(**STRATEGY).command, waits) as held:
            await_file(tmp_path, "*.waits")
            for other, trades in zip(OTHERS, alone, strict=True):
                group.add(other, home.run(home.backtesting(other).command).why_not_as(trades))
            (tmp_path / "go").touch()
            group.add("the one that was overtaken", held.end().why_not_as(expected))
        again = home.run(home.backtesting(**STRATEGY).command)
        group.add("the same again", again.why_not_as(expected))


def test_hyperopt_beside_a_backtest_of_other_settings_finds_what_it_finds_alone(
    make_home: MakeHome, tally: Tally, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "spaces": "sell",
        "epochs": 2,
        "job_workers": 2,
        "random_state": 7,
        "hyperopt_loss": "SharpeHyperOptLossDaily",
        "disable_param_export": True,
    }

    def epochs(home: Home) -> list[dict[str, Any]]:
        [written] = (home.user / "hyperopt_results").glob("*.fthypt")
        found = [json.loads(line) for line in written.read_text().splitlines()]
        assert len(found) == 2
        # But for when and how fast it was made.
        clocks = {"backtest_start_time", "backtest_end_time", "backtest_run_start_ts", "backtest_run_end_ts"}
        for epoch in found:
            epoch["results_metrics"] = {
                name: value for name, value in epoch["results_metrics"].items() if name not in clocks
            }
        return sorted(found, key=lambda epoch: str(epoch["params_dict"]))

    def hyperopt(home: Home) -> list[str]:
        return home.command("hyperopt", **STRATEGY, **options)

    by_itself = make_home()
    assert by_itself.run(hyperopt(by_itself)).status == 0
    other = OTHERS[2]
    trades = undisturbed(make_home(), other)
    home = make_home()
    with tally.of("4d a hyperopt beside a backtest") as group:
        waits = {"FAULTS_WAITS_IN_FIRST_EXIT": str(tmp_path)}
        with home.started(hyperopt(home), waits) as held:
            await_file(tmp_path, "*.waits")
            group.add("the backtest", home.run(home.backtesting(other).command).why_not_as(trades))
            group.add(
                "another", home.run(home.backtesting(OTHERS[0]).command).why_not_as(undisturbed(make_home(), OTHERS[0]))
            )
            (tmp_path / "go").touch()
            ended = held.end()
        assert ended.status == 0, ended.output
        assert "Traceback" not in ended.output
        found, expected = epochs(home), epochs(by_itself)
        assert any("rl_exit" in json.dumps(epoch["results_metrics"]) for epoch in expected)
        group.add("the hyperopt", None if found == expected else f"{found} instead of {expected}")


def test_a_run_goes_on_by_itself_once_the_one_that_it_waits_for_is_killed(
    make_home: MakeHome, tally: Tally, tmp_path: Path
) -> None:
    expected = undisturbed(make_home())
    with tally.of("4e the holder of a pair killed") as group:
        for number in range(1, N_PERIODS + 1):
            home, folder = make_home(), tmp_path / f"training{number}"
            folder.mkdir()
            waits = {"FAULTS_WAITS_IN_TRAINING": str(folder), "FAULTS_TRAINING_NUMBER": str(number)}
            with home.started(home.backtesting(**MODEL).command, waits) as holder:
                await_file(folder, "*.waits")
                with home.started(home.backtesting(**MODEL).command) as waiting:
                    await_output(lambda: waiting.output, "Waiting for process")
                    assert f"process {holder.process.pid} " in waiting.output
                    kill_group(holder.process.pid)
                    ended = waiting.end()
            group.add(f"in training {number}", ended.why_not_as(expected))
            assert ended.n_trained == N_PERIODS - number + 1
            assert home.strays() == []


# ---------------------------------------------------------------------- analyses


@pytest.mark.parametrize("analysis", ["lookahead-analysis", "recursive-analysis"])
def test_what_an_analysis_of_the_same_identifier_deletes_is_put_back(
    make_home: MakeHome, tally: Tally, analysis: str
) -> None:
    home = make_home()
    expected = undisturbed(home)
    before = set(home.kept_files())
    options: dict[str, Any] = {"minimum_trade_amount": 1, "targeted_trade_amount": 1}
    if analysis == "recursive-analysis":
        options = {"startup_candle": ["400", "500"]}
    with tally.of("7 an analysis of the same identifier") as group:
        done = home.run(home.command(analysis, timerange="20240905-20240907", **options))
        assert done.status == 0, done.output
        lost = before - set(home.kept_files())
        assert sum(path.suffix == ".zip" for path in lost) == N_PERIODS
        ended = home.run(home.backtesting().command)
        group.add(analysis, ended.why_not_as(expected))
        assert ended.n_trained == 0
        assert ended.output.count("were put back from") == 1
        assert {path for path in before if path.suffix == ".zip"} <= set(home.kept_files())


# ---------------------------------------------------------------------- every file, damaged


# One day each: every file is damaged in several ways, and each takes a run.
TWO_PERIODS: dict[str, Any] = {"timerange": "20240906-20240908"}


class DamagedHomes:
    """For each server a user directory with a finished run, damaged and restored again and again."""

    def __init__(self, warm: WarmServers, make_home: MakeHome) -> None:
        self._warm = warm
        self.homes = [make_home() for _ in warm.servers]
        self.runs = [home.backtesting(**TWO_PERIODS).command for home in self.homes]
        self.expected = undisturbed(self.homes[0], **TWO_PERIODS)
        for home, server in zip(self.homes, warm.servers, strict=True):
            assert home.run_warm(server, home.backtesting(**TWO_PERIODS).command).why_not_as(self.expected) is None
            home.keep()

    def try_each(self, group: Group, wrong: Callable[[WarmServer, Home, Damage], str | None]) -> list[Damage]:
        """Let everything happen to every file, one at a time.

        :param wrong: what goes wrong in a damaged home, if anything
        :return: what was tried
        """

        # The same for every home, but for names that hold a hash.
        tried = [damages(home.user, home.kept_files()) for home in self.homes]
        assert len({len(of_home) for of_home in tried}) == 1

        def one(server: WarmServer, number: int, at: int) -> str | None:
            home, damage = self.homes[number], tried[number][at]
            home.restore()
            damage.inflict(home.user)
            return wrong(server, home, damage) or ("the payload ran" if (home.user / MARKER).exists() else None)

        reasons = self._warm.map(one, range(len(tried[0])))
        for damage, reason in zip(tried[0], reasons, strict=True):
            group.add(damage, reason)
        return tried[0]


@pytest.fixture
def damaged_homes(warm: WarmServers, make_home: MakeHome) -> DamagedHomes:
    return DamagedHomes(warm, make_home)


def test_a_backtest_makes_the_same_trades_whatever_file_is_damaged(
    damaged_homes: DamagedHomes, warm: WarmServers, tally: Tally
) -> None:
    n_trained, n_put_back = 0, 0

    def wrong(server: WarmServer, home: Home, damage: Damage) -> str | None:
        nonlocal n_trained, n_put_back
        ended = home.run_warm(server, home.backtesting(**TWO_PERIODS).command)
        reason = ended.why_not_as(damaged_homes.expected)
        n_put_back += "were put back from" in ended.output
        if reason is None and ended.n_trained:
            n_trained += 1
            if damage.is_elsewhere:
                return "trained anew, although the files have other names"
            again = home.run_warm(server, home.backtesting(**TWO_PERIODS).command)
            return "the run after that trains again" if again.n_trained else again.why_not_as(damaged_homes.expected)
        return reason

    with tally.of("2a a damaged file, then the backtest again") as group:
        damaged_homes.try_each(group, wrong)
        group.notes.append(f"{n_trained} trained something anew, {n_put_back} put files back")


def test_a_chart_shows_the_same_columns_or_says_what_is_missing_and_writes_nothing(
    damaged_homes: DamagedHomes, warm: WarmServers, tally: Tally
) -> None:
    def frame_of(server: WarmServer, home: Home) -> tuple[Ended, pd.DataFrame]:
        path = home.new_log().with_suffix(".feather")
        command = home.command("plot-dataframe", pairs=[PAIR], no_trades=True, **(STRATEGY | TWO_PERIODS))
        ended = home.run_warm(server, command, {"FAULTS_FRAME": str(path)})
        return ended, pd.read_feather(path) if path.exists() else pd.DataFrame()

    shown = []
    for home, server in zip(damaged_homes.homes, warm.servers, strict=True):
        ended, frame = frame_of(server, home)
        assert ended.status == 0, ended.output
        assert (frame["do_predict"] == 1).sum() >= 2 * 288
        shown.append(frame)
    assert shown[0].equals(shown[1])
    n_told = 0

    def wrong(server: WarmServer, home: Home, damage: Damage) -> str | None:
        nonlocal n_told
        before = home.tree()
        ended, frame = frame_of(server, home)
        if ended.status != 0 or "Traceback" in ended.output:
            return f"exit status {ended.status}: {ended.output[-1500:]}"
        if ended.n_trained or home.tree() != before:
            return "the view has trained or written something"
        if frame.equals(shown[0]):
            return None
        neutral = frame["do_predict"] == 0
        if "the others are shown neutral, with do_predict 0" not in ended.output:
            return "other columns, and nothing says so"
        if not frame[~neutral].equals(shown[0][~neutral]):
            return "other columns than neutral ones"
        if damage.is_elsewhere:
            return "neutral columns, although the files have other names"
        n_told += 1
        return None

    with tally.of("2c a damaged file, then a chart") as group:
        damaged_homes.try_each(group, wrong)
        group.notes.append(f"{n_told} showed neutral columns and said why")
