"""``mtfscalper dry-run`` drives a bot to its time, ends it, and tells what it left. A small program is the bot here."""

import json
import shlex
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from docs_commands import COMMANDS_IN_DOCS
from rich.console import Console

from mtfscalper.cli import main
from mtfscalper.offline import SIMULATED_KEY, ReplayError, dry_run
from mtfscalper.offline import stage as stage_module
from mtfscalper.offline.bot_summary import BotSummary
from mtfscalper.offline.dry_run import CONFIGS, DryRunRequest, run_dry_run
from mtfscalper.offline.faults import Rule, random_rules
from mtfscalper.offline.simulated_clock import SimulatedClock
from mtfscalper.offline.stage import Stage, StageHome
from mtfscalper.offline.synthetic import DEFAULT_START, write_market

BTC = "BTC/USDT:USDT"
START = DEFAULT_START + timedelta(days=2)
STOP = DEFAULT_START + timedelta(days=4)

# Asks for candles and sleeps, as a bot does, and writes down when.
BOT = """
import json, os, pathlib, sys, urllib.request
from mtfscalper.offline.bot_time import install
from mtfscalper.offline.simulated_clock import CLOCK_VARIABLE, SimulatedClock
install(SimulatedClock(pathlib.Path(os.environ[CLOCK_VARIABLE])))
import datetime, time
config = json.loads(pathlib.Path(sys.argv[1]).read_text())
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
url = config["exchange"]["ccxt_config"]["urls"]["api"]["fapiPublic"]
print("Starting training BTC")
try:
    while True:
        served = json.load(opener.open(f"{url}/time"))["serverTime"] / 1000
        with open(sys.argv[2], "a") as seen:
            print(time.time(), served, file=seen, flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("Done training BTC")
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    write_market(folder, stop=STOP, pairs=[BTC])
    return folder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for config in CONFIGS:
        (tmp_path / config).parent.mkdir(exist_ok=True)
        text = '{"timeframe": "5m", "freqai": {"train_period_days": 1, "feature_parameters": {}}}'
        (tmp_path / config).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=120, highlight=False)


@pytest.fixture
def program(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a program be the bot; it is given the last configuration file and the file ``seen``."""

    def use(text: str) -> None:
        (checkout / "bot.py").write_text(text)

        def command(self: Stage, configs: list[Path], **options: object) -> list[str]:
            return [sys.executable, str(checkout / "bot.py"), str(configs[-1]), str(checkout / "seen")]

        monkeypatch.setattr(Stage, "command", command)

    return use


def request_of(market: Path, **others: object) -> DryRunRequest:
    return DryRunRequest(datadir=market, start=START, hours=6, pairs=(BTC,))._replace(**others)


def seen(checkout: Path) -> list[tuple[float, float]]:
    lines = (checkout / "seen").read_text().splitlines()
    return [(float(own), float(exchanges)) for own, exchanges in map(str.split, lines)]


def test_the_bot_lives_its_hours_in_step_with_the_exchange_and_is_ended(
    market: Path, checkout: Path, console: Console, program: Callable[[str], None]
) -> None:
    program(BOT)
    assert run_dry_run(request_of(market, userdir=Path("home")), console) == 0
    times = seen(checkout)
    began = START.timestamp()
    assert [own for own, _ in times] == [began + 600 * n for n in range(36)]
    assert all(own == exchanges for own, exchanges in times)
    said = console.export_text()
    assert "6.0 simulated hours" in said
    assert "1 done, 1 begun" in said
    for path in ("tradesv3.dryrun.sqlite", "logs/bot.log", "decisions"):
        assert str(checkout / "home" / path) in said
    # It goes on where it ended, and counts what it does from there on.
    assert run_dry_run(request_of(market, start=None, hours=1, userdir=Path("home")), console) == 0
    assert seen(checkout)[len(times)][0] == began + 6 * 3600
    assert "1 done, 1 begun" in console.export_text()
    # A bot that knows what comes would be no test of anything.
    for start in (START, STOP - timedelta(days=1, hours=17, seconds=1)):
        with pytest.raises(ReplayError, match=r"has lived until 2024-08-17 07:00 already.*leave --from out"):
            run_dry_run(request_of(market, start=start, hours=1, userdir=Path("home")), console)
    later = START + timedelta(hours=8)
    assert run_dry_run(request_of(market, start=later, hours=1, userdir=Path("home")), console) == 0
    assert seen(checkout)[-6][0] == later.timestamp()


def test_without_a_user_directory_every_run_has_one_of_its_own(
    market: Path, checkout: Path, console: Console, program: Callable[[str], None]
) -> None:
    program(BOT)
    assert run_dry_run(request_of(market, hours=1), console) == 0
    [home] = (checkout / "user_data/offline/dry_runs").iterdir()
    assert (home / "logs" / "bot.log").exists()


def test_a_live_bot_is_given_simulated_money_and_its_database_is_compared(
    market: Path, checkout: Path, console: Console, program: Callable[[str], None]
) -> None:
    program(BOT)
    request = request_of(market, hours=1, userdir=Path("home"), is_live=True)
    assert run_dry_run(request, console) == 0
    said = console.export_text()
    assert "live mode with simulated money" in said
    assert "10,000.00 USDT, simulated: no real key, no real order" in said
    assert "the exchange and the bot's database" in said
    assert "differs    in nothing" in said
    written = json.loads((checkout / "home" / "stage.json").read_text())
    assert (written["dry_run"], written["exchange"]["key"]) == (False, SIMULATED_KEY)
    # The account is gone with its exchange: another run would find trades without positions.
    (checkout / "home" / "tradesv3.simulated_money.sqlite").touch()
    with pytest.raises(ReplayError, match="whose exchange is gone"):
        run_dry_run(request, console)
    assert run_dry_run(request._replace(is_live=False, start=None), console) == 0


def test_a_bot_that_ends_by_itself_is_told_with_its_last_lines(
    market: Path, checkout: Path, console: Console, program: Callable[[str], None]
) -> None:
    program("raise SystemExit('no more')")
    assert run_dry_run(request_of(market, userdir=Path("home")), console) == 1
    said = console.export_text()
    assert "ended by itself with exit status 1" in said
    assert "no more" in said


def test_ctrl_c_ends_the_bot_and_shows_what_it_did(
    market: Path, checkout: Path, console: Console, program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(BOT)

    def interrupted(self: object, *_: object) -> bool:
        while not (checkout / "seen").exists():
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(dry_run.StagedBot, "run_until", interrupted)
    assert run_dry_run(request_of(market, userdir=Path("home")), console) == 130
    assert "1 done, 1 begun" in console.export_text()


def test_faults_are_served_and_counted(
    market: Path, checkout: Path, console: Console, program: Callable[[str], None]
) -> None:
    program(BOT)
    rules = (Rule("latency", path="time", seconds=5, times=3),)
    assert run_dry_run(request_of(market, userdir=Path("home"), hours=1, rules=rules), console) == 0
    # A late answer is late by the exchange's clock and by the bot's.
    steps = [later[0] - earlier[0] for earlier, later in zip(seen(checkout), seen(checkout)[1:], strict=False)]
    assert steps == [605, 605, 600, 600, 600]
    assert "3 latency" in console.export_text()
    assert len((checkout / "home/logs/faults.jsonl").read_text().splitlines()) == 3


def test_nothing_that_the_users_files_say_lets_a_bot_speak_to_others_or_listen_beyond_this_computer(
    market: Path, checkout: Path, console: Console, program: Callable[[str], None]
) -> None:
    program(BOT)
    own = {
        "telegram": {"enabled": True, "token": "a", "chat_id": "1"},
        "api_server": {"enabled": True, "listen_ip_address": "0.0.0.0"},
        "exchange": {"key": "mine", "secret": "mine"},
    }
    (checkout / "own.json").write_text(json.dumps(own))
    request = request_of(market, userdir=Path("home"), hours=1, configs=(Path("own.json"),))
    assert run_dry_run(request, console) == 0
    overlay = json.loads((checkout / "home/stage.json").read_text())
    assert overlay["telegram"]["enabled"] is overlay["api_server"]["enabled"] is False
    assert overlay["exchange"]["key"] == overlay["exchange"]["secret"] == ""
    assert run_dry_run(request._replace(ui_port=8099, userdir=Path("home2")), console) == 0
    server = json.loads((checkout / "home2/stage.json").read_text())["api_server"]
    assert (server["listen_ip_address"], server["listen_port"]) == ("127.0.0.1", 8099)
    assert server["password"] in console.export_text()


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"hours": 0}, "--hours is 0; accepted: a number above 0"),
        ({"hours": 24 * 30}, "720 hours from 2024-08-17 00:00 are asked for"),
        ({"start": DEFAULT_START}, "the first 1 days are for training; accepted: a time among 2024-08-16 00:00"),
        ({"pairs": ("DOGE/USDT:USDT",)}, "has no 5m, 15m, 1h futures candles of 'DOGE/USDT:USDT'"),
        ({"configs": (Path("nowhere.json"),)}, "nowhere.json does not exist"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(
    market: Path, checkout: Path, console: Console, others: dict[str, object], said: str
) -> None:
    with pytest.raises(ReplayError) as refusal:
        run_dry_run(request_of(market)._replace(**others), console)
    assert said in str(refusal.value)


def test_a_user_directory_that_a_dry_run_uses_is_not_used_by_another(
    market: Path, checkout: Path, console: Console
) -> None:
    with dry_run._alone_in(StageHome(checkout / "home")), pytest.raises(ReplayError, match="another dry run uses"):
        run_dry_run(request_of(market, userdir=Path("home")), console)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--speed", "0"], "or max"), (["--speed", "fast"], "or max"), (["--from", "soon"], "2024-10-01T08:30")],
)
def test_wrong_options_name_what_is_accepted(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["dry-run", *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("line", sorted({one.line for one in COMMANDS_IN_DOCS if one.kind == "mtfscalper dry-run"}))
def test_what_the_docs_ask_of_a_dry_run_is_what_is_run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DryRunRequest] = []
    monkeypatch.setattr(dry_run, "run_dry_run", lambda request, _: asked.append(request) or 0)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(shlex.split(line)[1:]) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    # Each of these is carried out by a test of this file, or of tests/acceptance.
    changes = {
        "--hours 6": {"hours": 6.0},
        "--faults 0.02": {"rules": random_rules(0.02)},
        "--simulated-live": {"is_live": True},
        "--speed 40": {"speed": 40},
        "--ui": {"ui_port": 8080},
        "--datadir user_data/data/binance": {"datadir": Path("user_data/data/binance")},
        "--from 2025-06-10": {"start": datetime(2025, 6, 10, tzinfo=UTC)},
        "--hours 48": {"hours": 48.0},
    }
    wanted, left = DryRunRequest(), line.removeprefix("mtfscalper dry-run")
    for words, change in changes.items():
        if words in left:
            wanted, left = wanted._replace(**change), left.replace(words, "")
    assert left.strip() == ""
    assert asked == [wanted]


# ---------------------------------------------------------------------- the stage itself


def test_clock_and_exchange_outlive_a_bot_that_is_killed(market: Path, checkout: Path) -> None:
    (checkout / "bot.py").write_text(BOT)
    home = StageHome(checkout / "home")
    with Stage(home, market, START, speed=None) as stage:
        overlay = stage.write_config([], [BTC], {})
        command = [sys.executable, str(checkout / "bot.py"), str(overlay), str(checkout / "seen")]
        bot = stage.start_bot(command, checkout)
        assert bot.run_until(START + timedelta(hours=1))
        bot.kill()
        assert bot.process.returncode == (1 if sys.platform == "win32" else -signal.SIGKILL)
        assert stage.clock.now() == START + timedelta(hours=1)
        # While none runs, whoever drives sets it on.
        stage.clock.jump_to(START + timedelta(hours=5))
        again = stage.start_bot(command, checkout)
        assert again.run_until(START + timedelta(hours=6))
        assert again.stop() == 130
        assert not again.run_until(START + timedelta(hours=7)), "none runs"
    times = [(own - START.timestamp()) / 3600 for own, _ in seen(checkout)]
    assert [time for time in times if 1 < time < 5] == []
    assert min(time for time in times if time >= 5) == 5
    assert SimulatedClock(home.clock).now() == START + timedelta(hours=6)


def test_a_bot_whose_stage_was_killed_is_waited_for(
    market: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "bot.py").write_text(BOT)
    home = StageHome(checkout / "home")
    with Stage(home, market, START, speed=None) as stage:
        overlay = stage.write_config([], [BTC], {})
        # Named as freqtrade's user directory is.
        command = [sys.executable, str(checkout / "bot.py"), str(overlay), str(checkout / "seen"), str(home.folder)]
        orphan = stage.start_bot(command, checkout)
        monkeypatch.setattr(stage_module, "STOP_SECONDS", 0.1)
        with pytest.raises(ReplayError, match=f"the bot with pid {orphan.process.pid} lives in"):
            stage.start_bot(command, checkout)
        orphan.kill()
        stage.start_bot(command, checkout).kill()


# ---------------------------------------------------------------------- what is told of a bot


def test_a_bots_log_database_and_decisions_are_counted(tmp_path: Path) -> None:
    home = StageHome(tmp_path)
    home.make()
    home.log.write_text(
        "2024-10-01 00:00:00,000 - freqtrade.worker - INFO - Starting training BTC/USDT:USDT\n"
        "2024-10-01 00:00:01,000 - freqtrade.worker - WARNING - first\n"
        "2024-10-01 00:00:02,000 - freqtrade.worker - ERROR - failed\n"
        "Traceback (most recent call last):\n"
        "2024-10-01 00:00:03,000 - freqtrade.worker - WARNING - Done training BTC\n"
        "2024-10-01 00:00:03,000 - freqtrade.worker - INFO - Starting training ETH/USDT:USDT\n"
    )
    with sqlite3.connect(home.database) as connection:
        trades = pd.DataFrame(
            {
                "is_open": [0, 0, 1],
                "is_short": [0, 1, 0],
                "open_date": ["2024-10-01 00:05:03.000000", "2024-10-01 06:00:00", "2024-10-01 07:00:00.5"],
                "close_date": ["2024-10-01 06:30:00.000000", "2024-10-01 06:05:00", None],
                "exit_reason": ["rl_exit", "stop_loss", None],
                "close_profit_abs": [10.0, -4.0, None],
            }
        )
        trades.to_sql("trades", connection)
    (home.decisions / "dry_run").mkdir(parents=True)
    candles = pd.to_datetime(["2024-10-01 00:10", "2024-10-01 06:30", "2024-10-01 07:05"], utc=True)
    record = pd.DataFrame({"candle": candles, "leave": [False, True, False]})
    for kind in ("dry_run", "backtest"):
        record.to_feather(home.decisions / "dry_run" / f"{kind}_Mine_2024-10-01.feather")
    summary = BotSummary.of(home)
    assert summary == BotSummary(
        trainings=(2, 1),
        decisions=(3, 1),
        entries=Counter(long=2, short=1),
        exits=Counter(rl_exit=1, stop_loss=1),
        profit=6.0,
        open_trades=1,
        log=Counter(warnings=2, errors=1, tracebacks=1),
    )
    # Of a user directory that holds an earlier run, only what came after that.
    line = len("2024-10-01 00:00:00,000 - freqtrade.worker - INFO - Starting training BTC/USDT:USDT\n")
    later = BotSummary.of(home, datetime(2024, 10, 1, 6, 10, tzinfo=UTC), line)
    assert later == summary._replace(
        trainings=(1, 1), decisions=(2, 1), entries=Counter(long=1), exits=Counter(rl_exit=1), profit=10.0
    )
    console = Console(record=True, width=100)
    console.print(summary.table("6 hours", Counter(latency=2)))
    said = console.export_text()
    for part in ("1 done, 2 begun", "3 candles of open trades, 1 of them to leave", "2 long, 1 short", "2 latency"):
        assert part in said


def test_a_bot_that_left_nothing_is_told_as_such(tmp_path: Path) -> None:
    summary = BotSummary.of(StageHome(tmp_path))
    assert summary.trainings == summary.decisions == (0, 0)
    assert not summary.entries
