"""What is run, what is said of it, and how it ends; tests/acceptance/test_validate_monitoring.py runs all of it."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_validation import PAIR, ROOT, TIMERANGE, write_candles, write_configs
from test_checks import HEALTHY, TIMED

from mtfscalper.machine import usable_processors
from mtfscalper.monitoring import freqtrade_run, validate
from mtfscalper.monitoring.advice import Advice
from mtfscalper.monitoring.estimate import (
    END_SECONDS,
    START_SECONDS,
    TimeLeft,
    slowed,
    training_count,
    training_seconds,
)
from mtfscalper.monitoring.facts import RunFacts
from mtfscalper.monitoring.freqtrade_log import last_error, stage_of
from mtfscalper.monitoring.freqtrade_run import command_of
from mtfscalper.monitoring.others import Others
from mtfscalper.monitoring.packages import PackageFact
from mtfscalper.monitoring.plan import Change, Request, RequestError, plan_run, why_refused
from mtfscalper.monitoring.timing import Gain
from mtfscalper.monitoring.verdicts import Check, Verdict


@pytest.fixture(scope="module")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_candles(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_configs(tmp_path_factory.mktemp("config"), "SOL/USDT:USDT")


def told(
    monkeypatch: pytest.MonkeyPatch, datadir: Path, configs: tuple[Path, ...], tmp_path: Path, facts: RunFacts
) -> tuple[int, str, dict[str, Any]]:
    """What the command makes of a run that showed some facts: exit status, output, and the JSON it wrote."""
    monkeypatch.setattr(validate, "observe", lambda *_: facts)
    console = Console(record=True, width=200)
    arguments = ["--datadir", str(datadir), "--timerange", TIMERANGE, "--json", str(tmp_path / "facts.json")]
    arguments += ["--html", str(tmp_path / "page.html")]
    for config in configs:
        arguments += ["--config", str(config)]
    status = validate.main(arguments, root=ROOT, console=console)
    return status, console.export_text(), json.loads((tmp_path / "facts.json").read_text())


def test_a_sound_run_passes_and_is_advised(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Gain(2.0, 1.8, 2.2, 9)
    timed = TIMED.timed._replace(candidate=(TIMED.timed.yours._replace(vec_env="batched"), found))
    facts = replace(HEALTHY, timed=replace(TIMED, timed=timed))
    status, output, written = told(monkeypatch, datadir, configs, tmp_path, facts)
    assert status == 0
    assert written["passed"]
    assert all(check["name"] in output for check in written["checks"])
    pasted = json.loads(output[output.index("{\n") : output.rindex("\n}") + 2])
    assert pasted == {"freqai": {"rl_config": {"vec_env": "batched"}}} == written["advice"]["config"]
    assert "train_cycles" in {change["key"].rpartition(".")[2] for change in written["changes"]}
    assert "All checks passed" in (tmp_path / "page.html").read_text()


def test_a_run_that_failed_or_could_not_be_timed_fails(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(HEALTHY, changed_settings=("net_arch was (16,), not (32, 16)",))
    status, output, written = told(monkeypatch, datadir, configs, tmp_path, changed)
    assert status == 1
    assert not written["passed"]
    assert "net_arch was (16,), not (32, 16)" in output
    untimed = replace(HEALTHY, timed=None, why_untimed="no memory")
    status, output, written = told(monkeypatch, datadir, configs, tmp_path, untimed)
    assert status == 1
    assert {check["name"] for check in written["checks"] if check["verdict"] == "FAILED"} == {"timed alone"}
    assert "no memory" in output
    assert written["advice"] is None


# ---------------------------------------------------------------------- what to run


def request(datadir: Path, configs: tuple[Path, ...], **changes: Any) -> Request:
    return Request(ROOT, configs, datadir, TIMERANGE)._replace(**changes)


def test_the_plan_follows_the_configuration_files(
    datadir: Path, configs: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREQTRADE__FREQAI__RL_CONFIG__N_STEPS", "999")
    plan = plan_run(request(datadir, configs))
    assert plan.asked.n_steps == 128
    assert plan.asked.net_arch == (32, 16)
    assert plan.asked.vec_env == "subproc"
    assert plan.asked.train_cycles == 1
    assert plan.asked.torch_threads == min(8, usable_processors())
    # SOL has no candles there.
    assert plan.pairs == (PAIR,)
    command = command_of(plan, Path("overlay.json"), Path("results"))
    assert command[1:4] == ["-m", "freqtrade", "backtesting"]
    assert [command[i + 1] for i, part in enumerate(command) if part == "--config"] == [
        *map(str, configs),
        "overlay.json",
    ]
    assert command[command.index("--strategy") + 1] == "MtfScalper_RL_Hybrid"
    assert "--strategy-path" not in command


def test_trainings_that_would_run_side_by_side_are_watched_one_after_the_other(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"freqai": {"rl_config": {"executor": "processes", "workers": 2, "threads_per_job": 1}}}')
    plan = plan_run(request(datadir, (*configs, own)))
    assert (plan.settings.rl.executor, plan.settings.rl.workers) == ("inline", "auto")
    assert plan.asked.torch_threads == 1
    assert "freqai.rl_config.executor" in {change.key for change in plan.changes}


def test_the_default_run_has_the_networks_and_environments_of_the_project(datadir: Path) -> None:
    plan = plan_run(request(datadir, ()))
    asked = plan.asked
    assert (asked.vec_env, asked.n_envs, asked.batch_size) == ("subproc", 8, 256)
    assert asked.net_arch == (512, 512, 256)
    assert asked.entry_mode == "classic"
    assert 512 <= asked.n_steps <= 1024


def test_names_in_the_configuration_are_not_overridden(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"strategy": "Mine", "freqaimodel": "MyModel"}')
    command = command_of(plan_run(request(datadir, (*configs, own))), Path("overlay.json"), Path("results"))
    assert "--strategy" not in command
    assert "--freqaimodel" not in command


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ('{"freqai": {"rl_config": {"n_stepz": 1}}}', ["n_stepz", "n_steps"]),
        ('{"freqai": {"rl_config": {"model_type": "A2C"}}}', ["'A2C'", "'PPO'"]),
        ('{"exchange": {"pair_whitelist": ["SOL/USDT:USDT"]}}', ["SOL/USDT:USDT", PAIR]),
        ('{"freqai": ', ["configuration"]),
        ('{"max_open_trades": "many"}', ["'many'"]),
    ],
)
def test_a_configuration_that_cannot_be_used_is_wrong_usage(
    datadir: Path,
    configs: tuple[Path, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: str,
    parts: list[str],
) -> None:
    own = tmp_path / "own.json"
    own.write_text(config)
    arguments = ["--datadir", str(datadir), "--timerange", TIMERANGE, "--config", str(configs[0]), "--config", str(own)]
    assert validate.main(arguments, root=ROOT) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert all(part in error for part in parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--datadir", "mine"], ["--timerange", "20250401-20250408"]),
        (["--config", "missing.json"], ["missing.json", "no such file"]),
        (["--json", "missing/facts.json"], ["missing/facts.json", "folder"]),
        (["--datadir", "nowhere", "--timerange", TIMERANGE], ["no futures candles"]),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert validate.main(arguments, root=ROOT) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts)


def test_an_unknown_option_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        validate.main(["--fast"], root=ROOT)
    assert stop.value.code == 2


def test_a_missing_package_is_the_only_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = PackageFact("sb3-contrib", ">=2.4", None, "it is not installed")
    monkeypatch.setattr(validate, "package_facts", lambda: (missing,))
    console = Console(record=True, width=120)
    assert validate.main(["--json", str(tmp_path / "facts.json")], root=ROOT, console=console) == 1
    assert "sb3-contrib: it is not installed" in console.export_text()
    assert not json.loads((tmp_path / "facts.json").read_text())["passed"]


def test_facts_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    facts = {"relative_change": float("nan"), "periods": ({"rate": float("inf"), "n": 1},)}
    assert validate._conclude(Console(record=True), [], path, facts) == 0
    assert json.loads(path.read_text())["facts"] == {"relative_change": None, "periods": [{"rate": None, "n": 1}]}


# ---------------------------------------------------------------------- freqtrade fails


def with_program(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let a Python program stand in for freqtrade."""
    monkeypatch.setattr(freqtrade_run, "command_of", lambda *_: [sys.executable, "-c", program])


@pytest.mark.parametrize(
    ("program", "parts"),
    [
        ("print('2026-01-01 10:00:00,000 - freqtrade - ERROR - No data found. Terminating.'); exit(2)", ["status 2"]),
        # freqtrade leaves with 0 after some configuration errors.
        ("print('2026-01-01 10:00:00,000 - freqtrade - ERROR - No data found. Terminating.')", ["status 0"]),
    ],
)
def test_a_failure_of_freqtrade_is_one_line_and_its_log(
    datadir: Path,
    configs: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    parts: list[str],
) -> None:
    with_program(monkeypatch, program)
    console = Console(record=True, width=200)
    arguments = ["--datadir", str(datadir), "--timerange", TIMERANGE, "--json", str(tmp_path / "facts.json")]
    for config in configs:
        arguments += ["--config", str(config)]
    assert validate.main(arguments, root=ROOT, console=console) == 1
    text = console.export_text()
    assert all(part in text for part in ["FAILED: freqtrade failed", "No data found. Terminating.", *parts])
    log = Path(text.split("Its whole output: ")[1].strip())
    assert log.is_file()
    log.unlink()
    written = json.loads((tmp_path / "facts.json").read_text())
    assert written["passed"] is False
    assert "No data found" in written["error"]


def test_an_interrupted_run_stops_freqtrade(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def noted(*arguments: Any, **keywords: Any) -> "subprocess.Popen[bytes]":
        started.append(real(*arguments, **keywords))
        return started[-1]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with_program(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(subprocess, "Popen", noted)
    monkeypatch.setattr(freqtrade_run, "time", _Clock(interrupt))
    console = Console(record=True, width=200)
    arguments = ["--datadir", str(datadir), "--timerange", TIMERANGE, "--config", str(configs[0])]
    arguments += ["--config", str(configs[1])]
    assert validate.main(arguments, root=ROOT, console=console) == 130
    assert started[0].poll() is not None
    text = console.export_text()
    assert "Interrupted" in text
    Path(next(line.split()[1] for line in text.splitlines() if line.startswith("log "))).unlink()


class _Clock:
    """The module ``time`` with another ``sleep``."""

    def __init__(self, sleep: Any) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


LOG = """2026-11-21 03:01:51,339 - freqtrade.freqai.freqai_interface - WARNING - Training raised exception.
Traceback (most recent call last):
  File "x.py", line 1, in <module>
freqtrade.exceptions.OperationalException: all training data dropped
"""


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            LOG + "2026-11-21 03:01:52,000 - freqtrade - ERROR - Training failed: all data\ndropped due to NaNs\n",
            "Training failed: all data dropped due to NaNs",
        ),
        (
            "2026-11-21 03:01:52,000 - freqtrade - ERROR - Fatal exception!\nTraceback (most recent call last):\n"
            '  File "x.py", line 1\nValueError: boom\n',
            "ValueError: boom",
        ),
        (
            "2026-11-21 03:01:52,000 - freqtrade - INFO - SIGINT received, aborting ...\n",
            "SIGINT received, aborting ...",
        ),
        ("python: can't open file 'x'\n", "python: can't open file 'x'"),
        ("", "it wrote nothing"),
    ],
)
def test_the_last_error_of_a_log(log: str, error: str) -> None:
    assert last_error(log) == error


def test_stages_follow_the_log() -> None:
    assert stage_of("... Loading data for BTC", "starting") == "loading candles"
    assert stage_of("--- Starting training BTC/USDT:USDT ---", "x") == "training BTC/USDT:USDT"
    assert stage_of("--- Done training BTC/USDT:USDT ---\nnothing", "x") == "deciding on BTC/USDT:USDT"
    assert stage_of("Backtesting with data from 2024-10-01 up to", "x") == "backtesting trades"
    assert stage_of("nothing", "as before") == "as before"


def test_without_timerange_own_candles_are_refused(datadir: Path) -> None:
    with pytest.raises(RequestError, match="--timerange"):
        plan_run(Request(ROOT, (), datadir))


def test_help_imports_neither_torch_nor_freqtrade() -> None:
    program = (
        "import sys\n"
        "from mtfscalper.monitoring.validate import main\n"
        "from pathlib import Path\n"
        "try: main(['--help'], root=Path())\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'freqtrade', 'pandas'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False).returncode == 0


# ---------------------------------------------------------------------- what is said


def test_every_changed_key_is_named_beside_what_it_was(datadir: Path, configs: tuple[Path, ...]) -> None:
    changes = {change.key: (change.before, change.after) for change in plan_run(request(datadir, configs)).changes}
    assert changes["freqai.rl_config.train_cycles"] == ("30", "1")
    assert changes["freqai.rl_config.progress_bar"] == ("true", "false")
    assert changes["exchange.pair_whitelist"] == (f'["{PAIR}", "SOL/USDT:USDT"]', f'["{PAIR}"]')
    assert changes["user_data_dir"] == ("not set", '"user_data/offline"')
    # They are so already.
    assert not {"freqai.save_backtest_models", "exchange.name", "exchange.key"} & set(changes)


def test_another_exchange_is_named_and_a_key_is_not_shown(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"exchange": {"name": "okx", "key": "private", "secret": "hidden", "ccxt_config": {"a": 1}}}')
    plan = plan_run(request(datadir, (*configs, own)))
    changes = {change.key: (change.before, change.after) for change in plan.changes}
    assert changes["exchange.name"] == ('"okx"', '"binance"')
    assert changes["exchange.key"] == changes["exchange.secret"] == ("set", '""')
    assert changes["exchange.ccxt_config"] == ("set", "every request goes to the loopback exchange")
    assert not any(secret in str(plan.changes) for secret in ("private", "hidden"))


def test_what_the_settings_would_refuse_is_known_beforehand(
    datadir: Path, configs: tuple[Path, ...], tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"freqai": {"rl_config": {"vec_env": "batched", "n_envs": 4096}}}')
    plan = plan_run(request(datadir, (*configs, own)))
    # So many processes.
    assert "n_envs" in (why_refused(plan, {"vec_env": "subproc"}) or "")
    assert why_refused(plan, {"vec_env": "torch", "cpu_count": 1}) is None


def test_the_page_holds_all_and_needs_nothing_else(tmp_path: Path) -> None:
    path, check = tmp_path / "page.html", Check("speed", "update", "1 < 2", "at least 2", Verdict.FAILED, "look & see")
    advice = Advice("Trains 2.00 times as fast.", {"freqai": {}}, (("yours", "1.00", ""),), ("A remark.",))
    changes = (Change("freqai.rl_config.train_cycles", "30", "1"),)
    console = Console(record=True, width=120)
    status = validate._conclude(console, [check], None, {}, advice=advice, changes=changes, html_path=path)
    assert status == 1
    html = path.read_text()
    for text in ("Checks failed", "1 &lt; 2", "look &amp; see", "Trains 2.00 times", "A remark.", "train_cycles"):
        assert text in html
    assert "prefers-color-scheme: dark" in html
    assert "http" not in html
    assert "src=" not in html
    assert "Trains 2.00 times as fast." in console.export_text()


def test_too_few_seconds_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        validate.main(["--seconds", "3"], root=ROOT)
    assert stop.value.code == 2
    assert "3 is less than 20" in capsys.readouterr().err


def test_time_left_follows_the_trainings() -> None:
    left = TimeLeft(3, 10.0, after=60.0)
    assert left.total == START_SECONDS + 30.0 + END_SECONDS + 60.0
    assert left.left(0.0) == left.total
    left.training_began(12.0)
    assert left.left(16.0) == 6.0 + 20.0 + END_SECONDS + 60.0
    left.training_ended(32.0)
    # It took twice as long as thought; so will the others.
    assert left.left(32.0) == 40.0 + END_SECONDS + 60.0


def test_trainings_are_counted_by_pair_and_period(datadir: Path, configs: tuple[Path, ...]) -> None:
    plan = plan_run(request(datadir, configs))
    assert plan.settings.backtest_period_days == 7
    assert training_count(plan.config, "20241001-20241016", 2, plan.settings) == 6
    assert training_count(plan.config, "20241001-", 2, plan.settings) == 2
    # Twice the machine, half the updates' time; the environments take as long.
    slow, fast = (training_seconds(plan.settings, "5m", 54, rate) for rate in (1e9, 2e9))
    assert slow / 2 < fast < slow


def test_others_make_a_run_longer() -> None:
    assert slowed(2, Others(0.0, 0.1), 2) == 1.05
    assert slowed(1, Others(0.5), 2) == 1.0
    # Both processors are full; what waits for them counts.
    assert slowed(2, Others(2.0, 6.0), 2) == 4.0
    left = TimeLeft(2, 10.0, after=60.0, slower=2.0)
    assert left.total == 2 * (START_SECONDS + 20.0 + END_SECONDS) + 60.0
