"""The command as a user types it: it passes on a sound run and fails, on the right lines, on a sabotaged one."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mtfscalper.machine import usable_processors
from mtfscalper.monitoring import freqtrade_run, validate
from mtfscalper.monitoring.advice import Advice
from mtfscalper.monitoring.estimate import END_SECONDS, START_SECONDS, TimeLeft, training_count, training_seconds
from mtfscalper.monitoring.freqtrade_log import last_error, stage_of
from mtfscalper.monitoring.freqtrade_run import command_of
from mtfscalper.monitoring.packages import PackageFact
from mtfscalper.monitoring.plan import Change, Request, RequestError, plan_run
from mtfscalper.monitoring.verdicts import Check, Verdict
from mtfscalper.offline import OFFLINE_USER_DATA
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
PAIR = "BTC/USDT:USDT"
TIMERANGE = "20241001-20241004"

SMALL = {
    "exchange": {"pair_whitelist": [PAIR, "SOL/USDT:USDT"]},
    "freqai": {
        "train_period_days": 4,
        "rl_config": {
            "n_envs": 2,
            "n_steps": 128,
            "batch_size": 64,
            "n_epochs": 4,
            "net_arch": [32, 16],
            "entry_mode": "classic",
        },
    },
}


@pytest.fixture(scope="module")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month of one pair: a backtest of three days, training, and what indicators look back on."""
    path = tmp_path_factory.mktemp("market")
    write_market(path, start=datetime(2024, 9, 5, tzinfo=UTC), stop=datetime(2024, 10, 6, tzinfo=UTC), pairs=(PAIR,))
    return path


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    small = tmp_path_factory.mktemp("config") / "small.json"
    small.write_text(json.dumps(SMALL))
    return (ROOT / "configs" / "config_rl_hybrid.json", small)


def validated(
    datadir: Path, configs: tuple[Path, ...], json_path: Path, **environment: str
) -> tuple[int, str, dict[str, Any]]:
    """Run the script: exit status, output, and the JSON it wrote."""
    command = [sys.executable, str(ROOT / "validate_monitoring.py"), "--datadir", str(datadir)]
    # As little timing as there can be: what it says is not looked at here.
    command += ["--timerange", TIMERANGE, "--seconds", "20", "--json", str(json_path)]
    for config in configs:
        command += ["--config", str(config)]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("FREQTRADE__")}
    done = subprocess.run(command, env=variables | environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, json.loads(json_path.read_text())


def failed_lines(written: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The checks that failed, by name; not those of speed, which are up to the machine."""
    slow = {"speed", "machine"}
    checks = [check for check in written["checks"] if check["group"] not in slow or check["name"] == "timed alone"]
    return {check["name"]: check for check in checks if check["verdict"] == "FAILED"}


def leftovers() -> set[Path]:
    return set((ROOT / OFFLINE_USER_DATA / "models").glob("validate_*"))


def test_a_sound_run_passes(datadir: Path, configs: tuple[Path, ...], tmp_path: Path) -> None:
    before = leftovers()
    status, output, written = validated(datadir, configs, tmp_path / "facts.json")
    assert failed_lines(written) == {}, output
    assert (status == 0) is written["passed"]
    assert all(check["name"] in output for check in written["checks"])
    facts = written["facts"]
    assert facts["trades"]["total"] > 0
    (period,) = facts["periods"]
    assert len(period["watched"]["worker_pids"]) == 2
    assert period["watched"]["worker_pids"] == sorted(period["report"]["worker_pids"])
    # 1,036 candles trained on, in rollouts of 2 x 128.
    assert period["report"]["timesteps"] == 1280
    assert period["saved"]["policy_layers"] == [32, 16]
    log = Path(next(line.split()[1] for line in output.splitlines() if line.startswith("log ")))
    # freqtrade wraps its lines at the width of the terminal.
    assert "Backtesting with data from" in " ".join(log.read_text().split())
    log.unlink()
    # Others may validate at the same time.
    assert not {path for path in leftovers() - before if path.name in output}


# Runs in the interpreter of freqtrade alone, before anything else.
NO_PROCESSES = """
import sys

if "backtesting" in sys.orig_argv:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    def refuse(*arguments, **keywords):
        raise OSError("no more processes")

    SubprocVecEnv.__init__ = refuse
"""


def test_a_sabotaged_run_fails_on_its_lines(datadir: Path, configs: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_PROCESSES)
    status, output, written = validated(
        datadir,
        configs,
        tmp_path / "facts.json",
        PYTHONPATH=str(tmp_path),
        # freqtrade lets the environment override what the configuration files say.
        FREQTRADE__FREQAI__RL_CONFIG__NET_ARCH="[16, 16, 16]",
    )
    assert status == 1, output
    assert not written["passed"]
    failed = failed_lines(written)
    assert set(failed) == {
        "settings in force",
        "vector environment",
        "worker processes",
        "policy network",
        "value network",
    }
    assert failed["vector environment"]["seen"] == "DummyVecEnv x 2"
    assert failed["worker processes"]["seen"].startswith("0 in ")
    assert failed["policy network"]["seen"] == "[16, 16, 16]"
    assert failed["policy network"]["expected"] == "[32, 16]"
    assert "FREQTRADE__FREQAI__RL_CONFIG__NET_ARCH" in failed["settings in force"]["remedy"]
    Path(next(line.split()[1] for line in output.splitlines() if line.startswith("log "))).unlink()


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
    # It is true already.
    assert "freqai.save_backtest_models" not in changes


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
    slow, fast = (training_seconds(plan.settings, "5m", rate) for rate in (1e9, 2e9))
    assert slow / 2 < fast < slow
