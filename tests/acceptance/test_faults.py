"""Whatever happens to a run's process, files and disk: it ends as it would have, after one more start at the most.

Kills, damaged files, runs that overtake each other, full and read-only disks, and analyses that delete what they did
not make: each through the freqtrade command, and each compared with the same run undisturbed, trade by trade. The table
of what was tried, survived and lost stands at the end of the output.
"""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
from faults.bots import FIRST_START, INTERRUPTED, SECOND_START, running_bot
from faults.damages import KINDS, MARKER, Damage, DamagedHomes, damaged, damages
from faults.disks import free_bytes, give_to_somebody, leave, small_disk, somebody, why_not_stopped_well
from faults.homes import (
    N_PERIODS,
    PAIR,
    TRAINING,
    USER_CODE,
    Ended,
    Home,
    Trades,
    group_members,
    kill_group,
    n_policy_exits,
    results_of,
)
from faults.kills import moments, phase_of, why_not_killed_well
from faults.tally import Tally
from faults.warm import WarmServer, WarmServers
from freqai.damage import flip

from mtfscalper.artefacts import file_hash
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.seals import KEY_NAME

pytestmark = pytest.mark.acceptance

N_SERVERS = 2
MakeHome = Callable[[], Home]


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
    ended = home.run(home.backtesting(freqai, **options))
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
    deadline = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"{folder} has no {pattern}"
        time.sleep(0.05)


def await_output(read: Callable[[], str], text: str) -> None:
    deadline = time.monotonic() + 300
    while text not in read():
        assert time.monotonic() < deadline, read()
        time.sleep(0.05)


def test_the_same_backtest_twice_at_once_trains_every_period_once(make_home: MakeHome, tally: Tally) -> None:
    expected = undisturbed(make_home())
    with tally.of("4a the same backtest twice at once") as group:
        for pause in (0.0, 1.0, 3.0):
            home = make_home()
            with home.started(home.backtesting()) as first:
                time.sleep(pause)
                with home.started(home.backtesting()) as second:
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
        with home.started(home.backtesting(**STRATEGY), waits) as held:
            await_file(tmp_path, "*.waits")
            for other, trades in zip(OTHERS, alone, strict=True):
                group.add(other, home.run(home.backtesting(other)).why_not_as(trades))
            (tmp_path / "go").touch()
            group.add("the one that was overtaken", held.end().why_not_as(expected))
        again = home.run(home.backtesting(**STRATEGY))
        group.add("the same again", again.why_not_as(expected))


def test_hyperopt_beside_a_backtest_of_other_settings_finds_what_it_finds_alone(
    make_home: MakeHome, tally: Tally, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "spaces": "sell",
        "epochs": 2,
        "job_workers": 2,
        "random_state": 2,
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
            group.add("the backtest", home.run(home.backtesting(other)).why_not_as(trades))
            group.add("another", home.run(home.backtesting(OTHERS[0])).why_not_as(undisturbed(make_home(), OTHERS[0])))
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
            with home.started(home.backtesting(**MODEL), waits) as holder:
                await_file(folder, "*.waits")
                with home.started(home.backtesting(**MODEL)) as waiting:
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
    policies = {path: path.stat().st_ino for path in home.models.rglob("*_model.zip")}
    assert len(policies) == N_PERIODS
    options: dict[str, Any] = {"minimum_trade_amount": 1, "targeted_trade_amount": 1}
    if analysis == "recursive-analysis":
        options = {"startup_candle": ["400", "500"]}
    with tally.of("7 an analysis of the same identifier") as group:
        done = home.run(home.command(analysis, timerange="20240905-20240907", **options))
        assert done.status == 0, done.output
        # Those that lie there now are the analysis's own.
        assert not any(path.exists() and path.stat().st_ino == number for path, number in policies.items())
        ended = home.run(home.backtesting())
        group.add(analysis, ended.why_not_as(expected))
        assert ended.n_trained == 0
        assert ended.output.count("were put back from") == 1
        assert {path: path.stat().st_ino for path in policies} == policies


# ---------------------------------------------------------------------- every file, damaged


# One day each: every file is damaged in several ways, and each takes a run.
TWO_PERIODS: dict[str, Any] = {"timerange": "20240906-20240908"}


Finished = tuple[list[Home], Trades]


@pytest.fixture
def finished(warm: WarmServers, make_home: MakeHome) -> Finished:
    """Homes in which a backtest has run, and its trades."""
    homes = [make_home() for _ in warm.servers]
    expected = undisturbed(homes[0], **TWO_PERIODS)
    for home, server in zip(homes, warm.servers, strict=True):
        assert home.run_warm(server, home.backtesting(**TWO_PERIODS)).why_not_as(expected) is None
    return homes, expected


def test_a_backtest_makes_the_same_trades_whatever_file_is_damaged(
    finished: Finished, warm: WarmServers, tally: Tally
) -> None:
    homes, expected = finished
    n_trained, n_put_back = 0, 0

    def wrong(server: WarmServer, home: Home, damage: Damage) -> str | None:
        nonlocal n_trained, n_put_back
        ended = home.run_warm(server, home.backtesting(**TWO_PERIODS))
        reason = ended.why_not_as(expected)
        n_put_back += "were put back from" in ended.output
        if reason is None and ended.n_trained:
            n_trained += 1
            if damage.is_elsewhere:
                return "trained anew, although the files have other names"
            again = home.run_warm(server, home.backtesting(**TWO_PERIODS))
            return "the run after that trains again" if again.n_trained else again.why_not_as(expected)
        if reason is None and damage.is_elsewhere and "pair_dictionary" not in damage.file.name:
            was = file_hash(home.folder / "kept" / damage.file)
            return None if was in home.tree().values() else "the other names have lost it too"
        return reason

    with tally.of("2a a damaged file, then the backtest again") as group:
        DamagedHomes(warm, homes).try_each(group, wrong)
        group.notes.append(f"{n_trained} trained something anew, {n_put_back} put files back")


def test_a_chart_shows_the_same_columns_or_says_what_is_missing_and_writes_nothing(
    finished: Finished, warm: WarmServers, tally: Tally
) -> None:
    homes, _ = finished

    def frame_of(server: WarmServer, home: Home) -> tuple[Ended, pd.DataFrame]:
        path = home.new("feather")
        command = home.command("plot-dataframe", pairs=[PAIR], no_trades=True, **(STRATEGY | TWO_PERIODS))
        ended = home.run_warm(server, command, {"FAULTS_FRAME": str(path)})
        return ended, pd.read_feather(path) if path.exists() else pd.DataFrame()

    shown = []
    for home, server in zip(homes, warm.servers, strict=True):
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
        DamagedHomes(warm, homes).try_each(group, wrong)
        group.notes.append(f"{n_told} showed neutral columns and said why")


def test_the_commands_of_a_shell_survive_each_kind_of_damage(make_home: MakeHome, tally: Tally) -> None:
    """Two files for each, drawn at random, both names of their data damaged."""
    home = make_home()
    expected = undisturbed(home)
    home.keep()
    planted = Damage(home.kept_files()[0], "a payload", in_place=True, is_elsewhere=False)
    pickle.loads(damaged(b"", planted, home.user / MARKER) or b"")
    # The control: unpickled, it leaves its marker.
    assert (home.user / MARKER).exists()
    random = Random("a shell")
    with tally.of("2 the same, in processes of a shell") as group:
        of_kind = {kind: [of for of in damages(home.user, home.kept_files()) if of.kind == kind] for kind in KINDS}
        for kind, view in itertools.product(KINDS, (False, True)):
            home.restore()
            damage = random.choice([of for of in of_kind[kind] if of.in_place])
            damage.inflict(home.user)
            before = home.tree()
            if view:
                chart_of(home)
                group.add(f"{damage}, a chart", None if home.tree() == before else "the view has written something")
            else:
                group.add(f"{damage}, a backtest", home.run(home.backtesting()).why_not_as(expected))
            assert not (home.user / MARKER).exists()


# ---------------------------------------------------------------------- bots


def test_a_backtest_of_a_bots_identifier_stops_at_once_and_the_bot_goes_on(make_home: MakeHome, tally: Tally) -> None:
    expected = undisturbed(make_home())
    alone, home = make_home(), make_home()
    with running_bot(alone, FIRST_START) as bot:
        by_itself = bot.decide(4)
        bot.stop()
    with tally.of("4c a backtest of a running bot's identifier") as group, running_bot(home, FIRST_START) as bot:
        decided = bot.decide(2)
        before = home.tree()
        refused = home.run(home.backtesting())
        said = [line for line in refused.output.splitlines() if " - ERROR - " in line]
        assert refused.status not in (0, -9)
        assert len(said) == 1
        assert "freqai.identifier is 'faults', which a running bot uses: process" in said[0]
        assert f"process {bot.process.process.pid} " in said[0]
        assert "Traceback" not in refused.output
        assert refused.n_trained == 0
        changed = {name for name, digest in home.tree().items() if before.get(name) != digest}
        assert not [name for name in changed if not name.endswith((".lock", "/locks"))], changed
        # Another identifier is free.
        group.add("another identifier", home.run(home.backtesting({"identifier": "other"})).why_not_as(expected))
        decided |= bot.decide(2)
        assert all(any(values) for values in decided.values())
        ended = bot.stop()
        group.add("the bot", None if ended.status == INTERRUPTED else f"exit status {ended.status}")
        group.add("its decisions", None if decided == by_itself else f"{decided} instead of {by_itself}")
        group.add("its output", "a traceback" if "Traceback" in ended.output else None)
    with tally.of("4c a backtest of a running bot's identifier") as group:
        group.add("once the bot is gone", home.run(home.backtesting()).why_not_as(expected))


BOTS_FILES = (
    *("*_model.zip", "*_feature_pipeline.pkl", "mtfscalper_manifest.json"),
    *("pair_dictionary.json", "historic_predictions.pkl", KEY_NAME),
)


def test_a_bot_starts_again_and_decides_as_before_whatever_file_is_damaged(
    make_home: MakeHome, warm: WarmServers, tally: Tally, tmp_path: Path
) -> None:
    """In processes of their own, with the bot of ``tests/freqai``: one clock for all, and no exchange to wait for."""
    homes = []
    for server in warm.servers:
        home = make_home()
        homes.append(home)
        told = {"home": str(home.user), "market": str(home.market)}
        status, output = server.run("faults.live:first_session", home.new("log"), arguments=told)
        assert status == 0, output
        home.keep()

    def restart(server: WarmServer, home: Home) -> tuple[Ended, pd.DataFrame]:
        rows = home.new("feather")
        told = {"home": str(home.user), "market": str(home.market), "rows": str(rows)}
        status, output = server.run("faults.live:restart", home.new("log"), arguments=told)
        return Ended(status, output, None), pd.read_feather(rows) if rows.exists() else pd.DataFrame()

    decided = []
    for home, server in zip(homes, warm.servers, strict=True):
        ended, rows = restart(server, home)
        assert ended.status == 0, ended.output
        assert not rows["trained"].any()
        assert (rows["do_predict"] == 1).all()
        decided.append(rows)
    assert decided[0].equals(decided[1])
    probabilities = [name for name in decided[0].columns if name.startswith("&-")]
    assert (decided[0][probabilities[1:3]] != 0).all(axis=None)
    for home in homes:
        home.restore()
    n_trained, n_forgot = 0, 0

    def wrong(server: WarmServer, home: Home, damage: Damage) -> str | None:
        nonlocal n_trained, n_forgot
        ended, rows = restart(server, home)
        if ended.status != 0 or "Traceback" in ended.output:
            return f"exit status {ended.status}: {ended.output[-1500:]}"
        trained = bool(rows["trained"].any())
        forgot = bool(rows["history"].iloc[0] < decided[0]["history"].iloc[0])
        n_trained, n_forgot = n_trained + trained, n_forgot + (forgot and not trained)
        if trained and damage.is_elsewhere:
            return "trained anew, although the files have other names"
        # FreqAI returns nothing yet on the first candle after a start without a policy.
        same = slice(1 if trained else 0, None)
        other = (rows[probabilities][same] - decided[0][probabilities][same]).abs().to_numpy().max()
        if not (rows["do_predict"][same] == 1).all() or not other < 1e-6:
            return f"other decisions: {rows.to_dict('list')} instead of {decided[0].to_dict('list')}"
        return "a history begun anew, although the file has another name" if forgot and damage.is_elsewhere else None

    with tally.of("2b a damaged file, then the bot again") as group:
        DamagedHomes(warm, homes).try_each(group, wrong)
        group.notes.append(f"{n_trained} trained anew, {n_forgot} more began their history anew")


def test_the_command_starts_a_bot_again_whatever_file_is_damaged(make_home: MakeHome, tally: Tally) -> None:
    """What the bot lives by, damaged under every name; every other file has had its turn above."""
    homes = [make_home() for _ in range(N_SERVERS)]

    def first(home: Home) -> None:
        with running_bot(home, FIRST_START) as bot:
            bot.decide(2)
            assert bot.stop().status == INTERRUPTED
        home.keep()

    def again(home: Home) -> tuple[dict[str, list[float]], Ended]:
        with running_bot(home, SECOND_START) as bot:
            decided = bot.decide(3)
            return decided, bot.stop()

    with ThreadPoolExecutor(N_SERVERS) as pool:
        list(pool.map(first, homes))
        # A bot that has nothing trains on the candles of its start, as one does that has lost its policy.
        (kept, _), (anew, _) = pool.map(again, (homes[0], make_home()))
        both = kept.keys() & anew.keys()
        assert both
        assert all(any(kept[candle]) and kept[candle] != anew[candle] for candle in both)

        def is_as(of: dict[str, list[float]], decided: dict[str, list[float]]) -> bool:
            common = of.keys() & decided.keys()
            return bool(common) and all(of[candle] == decided[candle] for candle in common)

        def each(number: int) -> list[tuple[Damage, bool, str | None]]:
            home, found = homes[number], []
            for name, kind in list(itertools.product(BOTS_FILES, KINDS))[number::N_SERVERS]:
                home.restore()
                [file, *_] = [file for file in home.kept_files() if file.match(name)]
                damage = Damage(file, kind, in_place=True, is_elsewhere=False)
                damage.inflict(home.user)
                decided, ended = again(home)
                wrong = None
                if ended.status != INTERRUPTED or "Traceback" in ended.output:
                    wrong = f"exit status {ended.status}: {ended.output[-1500:]}"
                elif (home.user / MARKER).exists():
                    wrong = "the payload ran"
                elif not (is_as(kept, decided) or is_as(anew, decided)):
                    wrong = f"other decisions: {decided} instead of {kept} or {anew}"
                found.append((damage, is_as(anew, decided), wrong))
            return found

        with tally.of("2b the same, by the command") as group:
            tried = list(itertools.chain(*pool.map(each, range(N_SERVERS))))
            for damage, _, wrong in tried:
                group.add(damage, wrong)
            group.notes.append(f"{sum(is_anew for _, is_anew, _ in tried)} trained anew")


# ---------------------------------------------------------------------- periods lost


def test_any_subset_of_damaged_policies_is_trained_anew(make_home: MakeHome, tally: Tally) -> None:
    home = make_home()
    expected = undisturbed(home)
    home.keep()
    with tally.of("3 policies damaged in place, every subset") as group:
        for subset in subsets(range(N_PERIODS)):
            home.restore()
            zips = sorted(home.models.rglob("*_model.zip"))
            assert len(zips) == N_PERIODS
            for at in subset:
                flip(zips[at])
            ended = home.run(home.backtesting())
            group.add(subset, ended.why_not_as(expected))
            assert ended.n_trained == len(subset)


def test_of_any_mixture_of_lost_folders_only_what_is_lost_twice_is_trained_anew(
    make_home: MakeHome, warm: WarmServers, tally: Tally
) -> None:
    homes = [make_home() for _ in warm.servers]
    expected = undisturbed(homes[0])
    for home, server in zip(homes, warm.servers, strict=True):
        assert home.run_warm(server, home.backtesting()).why_not_as(expected) is None
        home.keep()

    def one(server: WarmServer, number: int, lost: tuple[tuple[int, ...], tuple[int, ...]]) -> str | None:
        home = homes[number]
        home.restore()
        folders = sorted(home.models.glob("sub-train-*"))
        predictions = sorted((home.models / "backtesting_predictions").glob("*.feather"))
        kept = sorted((home.archive / "periods").glob("*/*"))
        assert len(folders) == len(predictions) == len(kept) == N_PERIODS
        for at in lost[0]:
            shutil.rmtree(folders[at])
            predictions[at].unlink()
        for at in lost[1]:
            shutil.rmtree(kept[at])
        ended = home.run_warm(server, home.backtesting())
        n_lost_twice = len(set(lost[0]) & set(lost[1]))
        if ended.n_trained != n_lost_twice:
            return f"{ended.n_trained} trained instead of {n_lost_twice}"
        return ended.why_not_as(expected)

    mixtures = list(itertools.product(subsets(range(N_PERIODS)), repeat=2))
    with tally.of("3 FreqAI's folder, the kept copy or both lost, every mixture") as group:
        for lost, wrong in zip(mixtures, warm.map(one, mixtures), strict=True):
            group.add(lost, wrong)


def subsets(items: Iterable[int]) -> list[tuple[int, ...]]:
    known = list(items)
    return [subset for n in range(len(known) + 1) for subset in itertools.combinations(known, n)]


# ---------------------------------------------------------------------- kills


@pytest.mark.parametrize("vec_env", ["batched", "subproc"])
def test_a_backtest_killed_at_any_moment_makes_the_same_trades_when_run_again(
    make_home: MakeHome, tally: Tally, vec_env: str
) -> None:
    """With every process that it started, at moments all over its duration."""
    settings = {"rl_config": {"vec_env": vec_env}}
    whole = make_home()
    # Of a second run, for which the machine has the libraries in memory.
    expected = undisturbed(whole, settings)
    started = time.monotonic()
    undisturbed(whole, settings | {"identifier": "again"})
    seconds = time.monotonic() - started
    phases: Counter[str] = Counter()
    with tally.of(f"1 kill -9 of the command, {vec_env}") as group:
        for number, moment in enumerate(moments(seconds, vec_env)):
            home = whole if number % 5 else make_home()
            whole = home
            run = home.backtesting(settings | {"identifier": f"killed{number}"})
            with home.started(run) as process:
                time.sleep(moment)
                phases[phase_of(process.output)] += 1
                kill_group(process.process.pid)
                process.process.wait()
                ended = home.run(run)
                group.add(f"{moment:.2f} s", why_not_killed_well(home, process.process.pid, ended, expected))
        group.notes.append(f"of {seconds:.1f} s; killed {dict(phases)}")


@pytest.mark.parametrize("vec_env", ["batched", "subproc"])
def test_a_backtest_killed_while_it_trains_or_trades_makes_the_same_trades_when_run_again(
    make_home: MakeHome, warm: WarmServers, tally: Tally, vec_env: str
) -> None:
    """In processes whose libraries are imported already: no kill falls into the imports."""
    settings = {"rl_config": {"vec_env": vec_env}}
    homes = [make_home() for _ in warm.servers]
    expected = undisturbed(homes[0], settings)

    def measured(server: WarmServer, number: int, _: int) -> float:
        home, started = homes[number], time.monotonic()
        assert home.run_warm(server, home.backtesting(settings | {"identifier": "again"})).status == 0
        return time.monotonic() - started

    # Beside one another, as the kills are.
    seconds = min(warm.map(measured, range(len(homes))))
    phases: Counter[str] = Counter()

    def one(server: WarmServer, number: int, moment: float) -> str | None:
        home = homes[number]
        run = home.backtesting(settings | {"identifier": f"killed{moment}"})
        log = home.new("log")
        pid = server.start(run, log)
        time.sleep(moment)
        phases[phase_of(log.read_text(errors="replace"))] += 1
        kill_group(pid)
        server.wait()
        return why_not_killed_well(home, pid, home.run_warm(server, run), expected)

    with tally.of(f"1 kill -9 while it trains or trades, {vec_env}") as group:
        chosen = moments(seconds, f"warm {vec_env}")
        for moment, wrong in zip(chosen, warm.map(one, chosen), strict=True):
            group.add(f"{moment:.2f} s", wrong)
        group.notes.append(f"of {seconds:.1f} s; killed {dict(phases)}")


def test_the_workers_of_a_backtest_that_is_killed_alone_end_by_themselves(make_home: MakeHome, tally: Tally) -> None:
    settings = {"rl_config": {"vec_env": "subproc"}}
    home = make_home()
    expected = undisturbed(home, settings)
    random = Random("workers")
    with tally.of("1 kill -9 of a backtest without its workers") as group:
        for number in range(4):
            run = home.backtesting(settings | {"identifier": f"alone{number}"})
            with home.started(run) as process:
                await_output(lambda process=process: process.output, TRAINING)
                # The workers are there once their modules are imported.
                deadline = time.monotonic() + 60
                while len(group_members(process.process.pid)) < 4:
                    assert time.monotonic() < deadline, process.output
                time.sleep(random.random())
                process.process.kill()
                process.process.wait()
                ended = home.run(run)
                group.add(number, why_not_killed_well(home, process.process.pid, ended, expected))


# ---------------------------------------------------------------------- a full disk

# As many sizes of what is left are tried where trainings run in turn, and where they run side by side.
IN_TURN = pytest.param({}, 8, id="inline")
SIDE_BY_SIDE = pytest.param({"executor": "processes", "workers": 2, "threads_per_job": 1}, 4, id="processes")
ONE_PERIOD: dict[str, Any] = {"timerange": "20240907-20240908"}


@pytest.mark.parametrize(("rl", "n_sizes"), [IN_TURN, SIDE_BY_SIDE])
def test_a_backtest_on_a_full_disk_stops_with_one_message_and_goes_on_once_there_is_room(
    rl: dict[str, Any], n_sizes: int, make_home: MakeHome, tally: Tally, tmp_path: Path, market: Path, url: str
) -> None:
    # Those of trainings in turn, of as many threads.
    own = {name: value for name, value in rl.items() if name == "threads_per_job"}
    expected = undisturbed(make_home(), {"rl_config": own})
    settings = {"rl_config": rl}
    with small_disk(tmp_path / "disk") as disk, tally.of(f"5 a full disk, {rl.get('executor', 'inline')}") as group:
        before = free_bytes(disk)
        undisturbed(Home(tmp_path / "measured", market, url, user=disk / "measured"), settings)
        needed = before - free_bytes(disk)
        random, n_stopped = Random("sizes"), 0
        for number in range(n_sizes):
            left = int((number + random.random()) / n_sizes * needed)
            home = Home(tmp_path / f"on_disk{number}", market, url, user=disk / "user")
            leave(disk, left)
            run = home.backtesting(settings)
            ended = home.run(run)
            if ended.why_not_as(expected) is not None:
                n_stopped += 1
                group.add(f"{left} of {needed} bytes", why_not_stopped_well(ended))
            (disk / "filler").unlink()
            again = home.run(run)
            wrong = again.why_not_as(expected)
            group.add(
                f"{left} of {needed} bytes, then room",
                wrong or (f"left behind: {home.strays()}" if home.strays() else None),
            )
            shutil.rmtree(home.user)
        assert n_stopped >= n_sizes // 2
        group.notes.append(f"{n_stopped} of {n_sizes} stopped for want of room")


def test_whatever_write_finds_the_disk_full_one_message_says_so(
    make_home: MakeHome, warm: WarmServers, tally: Tally
) -> None:
    """The same where nothing can be mounted: from a certain one on, every whole file meets a full disk."""
    homes = [make_home() for _ in warm.servers]
    expected = undisturbed(homes[0], **ONE_PERIOD)
    script = str(USER_CODE.parent / "full_disk.py")

    def one(server: WarmServer, number: int, n_writes: int) -> str | None:
        home = homes[number]
        shutil.rmtree(home.user / "models")
        (home.user / "models").mkdir()
        run = home.backtesting(**ONE_PERIOD)
        log = home.new("log")
        status, output = server.run(run, log, {"FAULTS_N_WRITES": str(n_writes)}, prelude=script)
        # It can do without a note that it trades by its plan.
        is_done = Ended(status, output, results_of(run)).why_not_as(expected) is None
        wrong = None if is_done else why_not_stopped_well(Ended(status, output, None))
        return wrong or home.run_warm(server, run).why_not_as(expected)

    counted = homes[0].new("log")
    status, output = warm.servers[0].run(
        homes[0].backtesting({"identifier": "counted"}, **ONE_PERIOD),
        counted,
        {"FAULTS_N_WRITES": "100000"},
        prelude=script,
    )
    n_writes = output.count("FAULTS writes")
    assert status == 0, output
    assert n_writes >= 10
    with tally.of("5 a full disk, from every write on") as group:
        for at, wrong in zip(range(n_writes), warm.map(one, range(n_writes)), strict=True):
            group.add(f"from write {at} on", wrong)


# ---------------------------------------------------------------------- a read-only user directory


def test_what_is_finished_is_had_from_a_read_only_file_system(make_home: MakeHome, tally: Tally) -> None:
    home = make_home()
    expected, shown = undisturbed(home), chart_of(home)
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && mount -t tmpfs tmpfs "$0/plot" && exec "$@"'
    in_namespace = ["unshare", "--mount", "sh", "-c", script, str(home.user)]
    tried = subprocess.run([*in_namespace, "touch", str(home.user / "x")], capture_output=True, text=True, check=False)
    if "Read-only file system" not in tried.stderr:
        pytest.skip(f"nothing can be mounted read-only here: {tried.stderr.strip()}")
    with tally.of("6 a read-only file system") as group:
        before = home.tree()
        ended = home.run([*in_namespace, *home.backtesting()])
        group.add("a backtest", ended.why_not_as(expected) or ("trained" if ended.n_trained else None))
        group.add("a chart", None if chart_of(home, in_namespace).equals(shown) else "other columns")
        assert home.tree() == before


def test_what_is_finished_is_had_from_a_folder_that_the_user_may_not_write_to(
    market: Path, url: str, tally: Tally
) -> None:
    as_somebody = somebody()
    # Others may not look into pytest's own folders.
    folder = Path(tempfile.mkdtemp(prefix="faults_"))
    try:
        folder.chmod(0o755)
        shutil.copytree(market, folder / "market")
        home = Home(folder / "home", folder / "market", url, prefix=as_somebody)
        give_to_somebody(folder)
        expected, shown = undisturbed(home), chart_of(home)
        for path in (home.user, *home.user.rglob("*")):
            # freqtrade draws there.
            if not path.is_relative_to(home.user / "plot"):
                path.chmod(path.stat().st_mode & ~0o222)
        tried = subprocess.run(
            [*as_somebody, "touch", str(home.user / "x")], capture_output=True, text=True, check=False
        )
        assert "Permission denied" in tried.stderr
        with tally.of("6 a folder that the user may not write to") as group:
            before = home.tree()
            ended = home.run(home.backtesting())
            group.add("a backtest", ended.why_not_as(expected) or ("trained" if ended.n_trained else None))
            group.add("a chart", None if chart_of(home).equals(shown) else "other columns")
            assert home.tree() == before
    finally:
        shutil.rmtree(folder)


def chart_of(home: Home, prefix: Sequence[str] = ()) -> pd.DataFrame:
    """The columns that a chart shows, by the command."""
    path = home.new("feather")
    command = home.command("plot-dataframe", pairs=[PAIR], no_trades=True, **STRATEGY)
    ended = home.run([*prefix, *command], {"FAULTS_FRAME": str(path)})
    assert ended.status == 0, ended.output
    assert "Traceback" not in ended.output
    return pd.read_feather(path)
