"""The command line runs what it says, and refuses what it cannot run in one sentence."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from freqtrade.commands import Arguments
from freqtrade.configuration import TimeRange
from rich.console import Console

from mtfscalper.cli import COMMANDS, build_parser, main
from mtfscalper.offline import SYNTHETIC_DATADIR, demo
from mtfscalper.offline.demo import DemoRequest, run_demo
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import CONFIGS, run_freqtrade, runnable
from mtfscalper.offline.starter import starter_files
from mtfscalper.offline.synthetic import DEFAULT_PAIRS, MANIFEST_NAME, write_market

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for config in CONFIGS:
        (tmp_path / config).parent.mkdir(exist_ok=True)
        (tmp_path / config).write_text('{"timeframe": "5m", "freqai": {"feature_parameters": {}}}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=120, highlight=False)


def replace_freqtrade(monkeypatch: pytest.MonkeyPatch, program: str) -> list[list[str]]:
    """Let the demo run a Python program instead of freqtrade, and keep the commands it built."""
    commands: list[list[str]] = []

    def run(command: list[str], root: Path) -> int:
        commands.append(command)
        overlay = command[command.index("--pairs") - 1]
        return run_freqtrade([sys.executable, "-c", program, overlay], root)

    monkeypatch.setattr(demo, "run_freqtrade", run)
    return commands


WRITE_RESULT = """
import json, pathlib, sys, urllib.request
config = json.loads(pathlib.Path(sys.argv[1]).read_text())
url = config["exchange"]["ccxt_config"]["urls"]["api"]["fapiPublic"]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
symbols = json.load(opener.open(f"{url}/exchangeInfo"))["symbols"]
models = pathlib.Path("user_data/offline/models", config["freqai"]["identifier"])
assert not models.exists()
models.mkdir(parents=True)
(models / "trained").write_text(str(len(symbols)))
results = pathlib.Path("user_data/offline/backtest_results")
results.mkdir()
(results / "backtest-result.zip").write_text("")
"""


def test_demo_runs_the_freqtrade_command_with_the_overlay_last(
    checkout: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "own.json").write_text("{}")
    commands = replace_freqtrade(monkeypatch, WRITE_RESULT)
    assert run_demo(DemoRequest(configs=(Path("own.json"),)), console) == 0
    [command] = commands
    assert command[:4] == [sys.executable, "-m", "freqtrade", "backtesting"]
    configs = [command[index + 1] for index, word in enumerate(command) if word == "--config"]
    assert configs[:-1] == [
        "configs/config_rl_hybrid.json",
        "configs/config_rl_demo.json",
        "configs/offline.json",
        str(checkout / "own.json"),
    ]
    assert Path(configs[-1]).name == "overlay.json"
    options = dict(itertools.pairwise(command))
    assert options["--strategy"] == "MtfScalper_RL_Hybrid"
    assert options["--freqaimodel"] == "MtfScalperRLModel"
    assert options["--timerange"] == "20241001-20241015"
    assert options["--cache"] == "none"
    assert options["--datadir"] == "user_data/offline/data/binance"
    pairs = command.index("--pairs")
    assert tuple(command[pairs + 1 : pairs + 3]) == DEFAULT_PAIRS
    assert command[pairs + 3].startswith("--")


def test_demo_makes_the_market_serves_it_and_names_the_artefacts(
    checkout: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = checkout / "user_data/offline/models/mtfscalper_demo/stale"
    stale.parent.mkdir(parents=True)
    stale.touch()
    commands = replace_freqtrade(monkeypatch, WRITE_RESULT)
    assert run_demo(DemoRequest(), console) == 0
    assert (checkout / SYNTHETIC_DATADIR / MANIFEST_NAME).exists()
    assert (checkout / "user_data/offline/models/mtfscalper_demo/trained").read_text() == "2"
    said = console.export_text()
    assert "synthetic market" in said
    assert "a demo always trains" in said
    for artefact in (
        "user_data/offline/models/mtfscalper_demo",
        "user_data/offline/backtest_results/backtest-result.zip",
        "tensorboard --logdir user_data/offline/models/mtfscalper_demo/tensorboard",
        "mtfscalper demo --datadir user_data/data/binance",
    ):
        assert artefact in said
    # The overlay of the run is gone with it.
    assert not Path(commands[0][commands[0].index("--pairs") - 1]).exists()


def test_demo_runs_on_own_candles_from_a_folder_inside_the_checkout(
    checkout: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_market(checkout / "mine", seed=3)
    (checkout / "inside").mkdir()
    monkeypatch.chdir(checkout / "inside")
    commands = replace_freqtrade(monkeypatch, WRITE_RESULT)
    request = DemoRequest(datadir=Path("../mine"), timerange="20241010-20241012", pairs=DEFAULT_PAIRS[:1])
    assert run_demo(request, console) == 0
    assert "20241010-20241012" in commands[0]
    assert Path(commands[0][commands[0].index("--datadir") + 1]).resolve() == checkout / "mine"
    assert (checkout / "user_data/offline/models/mtfscalper_demo_own/trained").exists()
    assert not (checkout / SYNTHETIC_DATADIR).exists()


def test_two_demos_at_once_get_two_identifiers(
    checkout: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    with demo._exclusive_identifier(checkout / "user_data/offline/models") as first:
        assert first == "mtfscalper_demo"
        replace_freqtrade(monkeypatch, WRITE_RESULT)
        assert run_demo(DemoRequest(), console) == 0
    assert (checkout / "user_data/offline/models/mtfscalper_demo_2/trained").exists()
    with demo._exclusive_identifier(checkout / "user_data/offline/models") as again:
        assert again == "mtfscalper_demo"


def test_demo_returns_the_status_of_freqtrade(
    checkout: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_freqtrade(monkeypatch, "raise SystemExit(2)")
    assert run_demo(DemoRequest(), console) == 2
    assert "exit status 2" in console.export_text()


def test_demo_does_not_believe_a_success_without_a_result(
    checkout: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_freqtrade(monkeypatch, "")
    assert run_demo(DemoRequest(), console) == 1
    assert "without a result" in console.export_text()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--datadir", "mine"], ["--datadir mine", "--timerange 2025"]),
        (["--datadir", "mine", "--timerange", "20241001-"], ["holds no futures candles"]),
        (["--timerange", "20241001-"], ["'20241001-'", "the earlier one first"]),
        (["--timerange", "20241010-20241001"], ["20241010-20241001", "the earlier one first"]),
        (["--timerange", "next week"], ["'next week'", "accepted"]),
        (["--timerange", "20250401-20250415"], ["BTC/USDT:USDT from 20240815 to 20241104", "20240914-20241104"]),
        (["--timerange", "20240901-20240908"], ["accepted: days among 20240914-20241104, after 30 days to train on"]),
        (["--pairs", "SOL/USDT:USDT"], ["'SOL/USDT:USDT'", "BTC/USDT:USDT, ETH/USDT:USDT", "--pairs"]),
        (["--config", "missing.json"], ["missing.json does not exist", "--config"]),
        (["--config", "broken.json"], ["broken.json", "--config"]),
        (["--config", "wrong.json"], ["freqai.rl_config.n_envs is 0", "--config"]),
        (["--config", "elsewhere.json"], ["freqai.rl_config.device is 'cuda:99'", "--config"]),
        (["--port", "70000"], ["70000", "65535"]),
    ],
)
def test_demo_refuses_what_it_cannot_run(
    checkout: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]
) -> None:
    (checkout / "broken.json").write_text('{"freqai": ')
    (checkout / "wrong.json").write_text('{"freqai": {"rl_config": {"n_envs": 0}}}')
    (checkout / "elsewhere.json").write_text('{"freqai": {"rl_config": {"device": "cuda:99"}}}')
    last_demos = checkout / "user_data/offline/models/mtfscalper_demo/model.zip"
    last_demos.parent.mkdir(parents=True)
    last_demos.touch()
    assert main(["demo", *arguments]) == 2
    assert last_demos.exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert all(part in error for part in parts)


def test_demo_in_an_empty_folder_puts_there_what_it_needs(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = replace_freqtrade(monkeypatch, WRITE_RESULT)
    assert run_demo(DemoRequest(), console) == 0
    for path in starter_files():
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()
    said = console.export_text()
    assert f"There is no configs/config_rl_hybrid.json in {tmp_path}" in said
    assert "copied         strategies/MtfScalper_RL_Hybrid.py" in said
    assert len(commands) == 1


def test_a_demo_that_is_refused_leaves_an_empty_folder_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--datadir", "candles"]) == 2
    assert "--timerange" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_demo_prints_to_run_next_can_be_run(
    checkout: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the environment is on PATH, as after `make demo`."""
    monkeypatch.setenv("PATH", str(checkout))
    replace_freqtrade(monkeypatch, WRITE_RESULT)
    assert run_demo(DemoRequest(), console) == 0
    commands = [line.split() for line in console.export_text().splitlines() if line.startswith("  ")]
    assert [Path(words[0]).name for words in commands] == ["tensorboard", "freqtrade", "mtfscalper"]
    for program, *_ in commands:
        assert Path(program).parent == Path(sys.executable).parent
        assert Path(program).exists()
    Arguments(commands[1][1:]).get_parsed_arg()
    args = build_parser().parse_args(commands[2][1:])
    days = TimeRange.parse_timerange(args.timerange)
    # Fifteen days, the last of them yesterday, of the ninety that are downloaded.
    assert days.stopts - days.startts == 14 * 24 * 3600
    assert 0 < time.time() - days.stopts < 2 * 24 * 3600


def test_a_command_on_the_path_is_printed_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "project" / ".venv" / "bin"
    environment.mkdir(parents=True)
    for program in ("python", "freqtrade"):
        (environment / program).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(environment / "python"))
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("PATH", str(environment))
    assert runnable(["freqtrade", "trade"]) == "freqtrade trade"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runnable(["freqtrade", "trade"]) == f"{Path('.venv', 'bin', 'freqtrade')} trade"
    # Another freqtrade comes first: this environment's is meant.
    (tmp_path / "freqtrade").touch(mode=0o755)
    assert runnable(["freqtrade"], tmp_path) == str(Path("project", ".venv", "bin", "freqtrade"))
    assert runnable(["elsewhere", "a b"]) == "elsewhere 'a b'"


def test_synthetic_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for expected in ("Wrote", "Already there"):
        assert main(["synthetic", "--datadir", str(tmp_path), "--seed", "5"]) == 0
        assert capsys.readouterr().out.startswith(expected)
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["seed"] == 5


def test_replay_exchange_generates_the_market_and_serves_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    served: list[str] = []

    def interrupted(self: ReplayExchange) -> None:
        served.append(self.url)
        raise KeyboardInterrupt

    monkeypatch.setattr(ReplayExchange, "wait", interrupted)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["replay-exchange", "--port", "0"]) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert (tmp_path / SYNTHETIC_DATADIR / MANIFEST_NAME).exists()
    assert served[0] in capsys.readouterr().out


def test_replay_exchange_does_not_fill_a_directory_the_user_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["replay-exchange", "--datadir", str(tmp_path)]) == 2
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "holds no futures candles" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--port", "many"], ["synthetic", "--seed", "x"]])
def test_wrong_usage_exits_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: mtfscalper" in capsys.readouterr().err


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: mtfscalper" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from mtfscalper.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas', 'numpy', 'torch', 'freqtrade', 'fastapi', 'rich', 'ccxt'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


# `make test` makes this one a make within a make, which would print the directories that it enters.
MAKE_CLEAN = ["make", "--no-print-directory", "clean"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_clean_removes_what_the_synthetic_market_left_and_keeps_the_rest(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").write_text("torch==0\n")
    offline = tmp_path / "user_data" / "offline"
    write_market(offline / "data" / "binance", pairs=DEFAULT_PAIRS[:1])
    own_candles = offline / "data" / "binance" / "futures" / "SOL_USDT_USDT-5m-futures.feather"
    made = [offline / "models" / name / "model.zip" for name in ("mtfscalper_demo", "mtfscalper_demo_2", "validate_1")]
    own = [offline / "models" / name / "model.zip" for name in ("mtfscalper_demo_own", "mtf_scalper_rl", "mine")]
    for path in (own_candles, *made, *own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    said = subprocess.run(MAKE_CLEAN, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert {path for path in offline.rglob("*") if path.is_file()} == {own_candles, *own}
    kept = [f"user_data/offline/{name}" for name in ("data/binance", *(f"models/{path.parent.name}" for path in own))]
    assert sorted(line.strip() for line in said.splitlines()[1:]) == sorted(kept)
    shutil.rmtree(offline)
    said = subprocess.run(MAKE_CLEAN, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == ""
