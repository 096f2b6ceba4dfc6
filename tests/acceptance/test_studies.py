"""Studies by the command line, with real trainings: kills, two machines on one database, the backtest of a trial."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import psutil
import pytest
from asked_dashboard import ask
from asked_dashboard import served as dashboard_served
from freqtrade.data.btanalysis import load_backtest_data
from freqtrade_command import output_of
from postgres import postgres
from shipped import shipped_options
from studies import CONFIG, StudyHome, write_candles

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import freqtrade_command
from mtfscalper.reporting.trades import trades_of_freqtrade
from mtfscalper.search import leases
from mtfscalper.search.installed import is_dashboard_installed
from mtfscalper.search.storage import STORAGE_VARIABLE, open_storage
from mtfscalper.search.study_folder import StudyFolder
from mtfscalper.search.worker import finished_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

KILLS = 10
NEVER_RAN = (leases.DUPLICATE, leases.SURPLUS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    data = write_candles(tmp_path_factory.mktemp("data"))
    with ReplayExchange(data) as exchange:
        yield data, exchange.url


def study_in(home: StudyHome, url: str | None = None) -> optuna.Study:
    folder = StudyFolder(home.user / "studies" / "small")
    return optuna.load_study(study_name="small", storage=open_storage(url, folder))


def workers_of(driver: int) -> list[psutil.Process]:
    """The workers that a driver has started, without their own children."""
    found = []
    for child in psutil.Process(driver).children():
        # One that was killed is there until its driver looks.
        with suppress(psutil.Error):
            if "mtfscalper.search.worker" in child.cmdline():
                found.append(child)
    return found


def check_nothing_is_lost_or_doubled(trials: list[optuna.trial.FrozenTrial], wanted: int) -> None:
    finished = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(finished) == wanted
    ran = [trial for trial in trials if trial.user_attrs.get(leases.SET_ASIDE) not in NEVER_RAN]
    again = [trial for trial in ran if leases.AGAIN_OF in trial.user_attrs]
    successors = {trial.user_attrs[leases.AGAIN_OF]: trial for trial in again}
    assert len(successors) == len(again)
    for trial in trials:
        last = trial
        while last.user_attrs.get(leases.SET_ASIDE) in (leases.LOST, leases.STOPPED):
            if last.user_attrs.get(leases.ATTEMPT, 1) >= leases.ATTEMPTS:
                # Given up, which is told.
                break
            last = successors[last.number]
            # Its own parameters, whole or what had been drawn of them.
            assert trial.params.items() <= last.params.items(), (trial, last)
        else:
            assert last is trial or last in finished, (trial, last)


def test_ten_killed_workers_and_a_killed_driver_lose_nothing(tmp_path: Path, served: tuple[Path, str]) -> None:
    # So many that ten are killed before they are done.
    home, wanted = StudyHome(tmp_path, served[1], market=served[0]), 14
    command = home.command("--trials", str(wanted), "--workers", "3", "--seeds", "1", "--seed", "3")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    random, killed, dead_drivers = np.random.default_rng(1), 0, 0
    log = (tmp_path / "driver.log").open("ab")
    driver = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    while driver.poll() is None:
        time.sleep(1)
        if not (home.user / "studies" / "small" / "journal.log").exists():
            continue
        living = workers_of(driver.pid)
        running = [t for t in study_in(home).get_trials(deepcopy=False) if t.state.name == "RUNNING"]
        if killed < KILLS and len(living) == 3 and running:
            victim = living[int(random.integers(3))]
            victim.kill()
            killed += 1
            print(f"\nkilled worker {victim.pid} ({killed} of {KILLS})", flush=True)
            time.sleep(float(random.uniform(1, 8)))
        if killed == KILLS // 2 and not dead_drivers and driver.poll() is None:
            # All at once: the driver, and whoever works for it.
            for process in [*workers_of(driver.pid), psutil.Process(driver.pid)]:
                process.kill()
            driver.wait()
            dead_drivers += 1
            driver = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    print((tmp_path / "driver.log").read_text()[-3000:])
    assert driver.returncode == 0
    trials = study_in(home).trials
    print({state: sum(trial.state.name == state for trial in trials) for state in ("COMPLETE", "PRUNED", "FAIL")})
    assert killed == KILLS
    assert dead_drivers == 1
    check_nothing_is_lost_or_doubled(trials, wanted)
    assert any(trial.user_attrs.get(leases.SET_ASIDE) == leases.LOST for trial in trials)


def test_a_study_that_is_stopped_goes_on_from_there(tmp_path: Path, served: tuple[Path, str]) -> None:
    home = StudyHome(tmp_path, served[1], market=served[0])
    command = home.command("--trials", "3", "--seeds", "1")
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = home.user / "studies" / "small" / "journal.log"
    while driver.poll() is None and not (journal.exists() and finished_of(study_in(home).trials)):
        time.sleep(1)
    time.sleep(3)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(120) == 130
    assert not [trial for trial in study_in(home).trials if trial.state.name == "RUNNING"]
    # Without any argument of freqtrade's: those that it began with.
    (tmp_path / "user_data").symlink_to(home.user)
    home.arguments.clear()
    again = home.run("--trials", "3")
    assert again.returncode == 0, again.stdout + again.stderr
    check_nothing_is_lost_or_doubled(study_in(home).trials, 3)


def test_the_backtest_of_a_trials_overlay_makes_the_trials_own_trades(tmp_path: Path, served: tuple[Path, str]) -> None:
    home = StudyHome(tmp_path, served[1], market=served[0])
    ran = home.run("--trials", "2", "--seeds", "1", "--seed", "5")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder = StudyFolder(home.user / "studies" / "small")
    spec, traded = folder.spec, 0
    for number in range(2):
        [seed] = spec.tuning_seeds
        seeded = tmp_path / "seed.json"
        seeded.write_text(json.dumps({"freqai": {"identifier": f"again_{number}", "rl_config": {"seed": seed}}}))
        results = tmp_path / f"results_{number}"
        results.mkdir()
        output = output_of(
            freqtrade_command(
                "backtesting",
                (CONFIG, home.overlay, folder.overlay(number), seeded),
                timerange=spec.validation,
                userdir=home.user,
                datadir=folder.candles,
                backtest_directory=results,
                export="trades",
                no_color=True,
                **shipped_options(),
            ),
            cwd=tmp_path,
        )
        assert "Starting training" in output
        [export] = results.glob("*.zip")
        again = trades_of_freqtrade(load_backtest_data(export), 300_000)
        stored = pd.read_feather(folder.trades_file(number, seed))
        pd.testing.assert_frame_equal(again, stored, check_dtype=False)
        traded += len(stored)
    assert traded > 10


def looked_at(home: StudyHome, url: str) -> str:
    """What ``mtfscalper study watch`` shows of a study in a database, once the dashboard has shown the same trials."""
    if is_dashboard_installed():
        with dashboard_served("--userdir", str(home.user), "--storage", url) as port:
            [listed] = json.loads(ask(port, "/api/studies")[1])["study_summaries"]
            shown = json.loads(ask(port, f"/api/studies/{listed['study_id']}")[1])["trials"]
        assert [trial["number"] for trial in shown] == [trial.number for trial in study_in(home, url).trials]
        assert all("a day" in trial["note"]["body"] for trial in shown if trial["state"] == "Complete")
    words = [sys.executable, "-m", "mtfscalper.cli", "study", "watch", "--once", "--userdir", str(home.user)]
    environment = {**os.environ, STORAGE_VARIABLE: url, "COLUMNS": "160"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(
    shutil.which("initdb") is None and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
    reason="PostgreSQL is not installed (Debian: postgresql)",
)
def test_two_machines_share_a_study_in_a_database(tmp_path: Path, served: tuple[Path, str]) -> None:
    pytest.importorskip("psycopg", reason="the driver is not installed: pip install 'mtfscalper[postgres]'")
    wanted = 6
    with postgres() as url:
        homes = [StudyHome(tmp_path / name, served[1], market=served[0]) for name in ("one", "two")]
        begun = homes[0].run("--trials", "1", "--seeds", "1", "--storage", url)
        assert begun.returncode == 0, begun.stdout + begun.stderr
        # What the database is asked for, a password may be part of: not on a command line.
        environment = {**os.environ, STORAGE_VARIABLE: url, "OMP_NUM_THREADS": "1"}
        running: list[Any] = [
            subprocess.Popen(
                home.command("--trials", str(wanted)),
                cwd=home.home,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for home in homes
        ]
        told = [process.communicate(timeout=1800)[0] for process in running]
        assert [process.returncode for process in running] == [0, 0], told
        trials = study_in(homes[0], url).trials
        folders = [StudyFolder(home.user / "studies" / "small") for home in homes]
        assert folders[0].spec.shared_sha256 == folders[1].spec.shared_sha256
        assert not folders[0].journal.exists()
        wrong = homes[0].run("--trials", "2")
        watched = looked_at(homes[1], url)
    check_nothing_is_lost_or_doubled(trials, wanted)
    by_machine = [{int(path.name) for path in (folder.path / "trials").iterdir()} for folder in folders]
    print(f"\ntrials by machine: {by_machine}")
    assert by_machine[0] | by_machine[1] == {trial.number for trial in trials}
    assert not by_machine[0] & by_machine[1]
    assert all(by_machine)
    # Who looks on sees the trials of both machines.
    assert f"{wanted} of {wanted} trials finished" in watched
    # Without its storage it would be another study of the same name.
    assert wrong.returncode == 2
    assert "--storage is journal, and the trials of the study small are kept in postgresql" in wrong.stderr
