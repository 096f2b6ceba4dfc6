"""No key of the owner's is written anywhere: not into a log at its most talkative, nor into any file."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults.bots import FIRST_START, INTERRUPTED, running_bot
from faults.homes import MARKET, PAIR, TIMERANGE, Home
from shipped import shipped_options

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.synthetic import write_market

pytestmark = pytest.mark.acceptance

# Each is found again by its own word.
CONFIG: dict[str, Any] = {
    "exchange": {
        "key": "planted-key",
        "secret": "planted-secret",
        "password": "planted-password",
        "uid": "planted-uid",
    },
    "telegram": {"enabled": False, "token": "planted-token", "chat_id": "planted-chat"},
    "webhook": {"enabled": False, "url": "http://127.0.0.1:9/planted-webhook"},
    "discord": {"enabled": False, "webhook_url": "http://127.0.0.1:9/planted-discord"},
    "api_server": {
        "enabled": False,
        "listen_ip_address": "127.0.0.1",
        "listen_port": 8080,
        "username": "me",
        "password": "planted-api",
        "jwt_secret_key": "planted-jwt-of-at-least-32-characters",
        "ws_token": "planted-ws",
    },
    "verbosity": 3,
}
ENVIRONMENT = {
    "FREQTRADE__EXCHANGE__API_KEY": "planted-by-environment",
    "FREQTRADE__EXCHANGE__PRIVATE_KEY": "planted-private",
    "FREQTRADE__TELEGRAM__TOPIC_ID": "planted-topic",
    "MY_BROKERS_PASSWORD": "planted-elsewhere",
}
PLANTED = b"planted-"
FREQTRADES_OWN = {b"planted-jwt", b"planted-ws", b"planted-topic"}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datadir = tmp_path_factory.mktemp("market")
    write_market(datadir, start=MARKET[0], stop=MARKET[1], pairs=[PAIR])
    return datadir


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    # What was measured of this machine is remembered there.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and those of what is packed in it."""
    yield str(path), path.read_bytes()
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as packed:
        for name in packed.namelist():
            yield f"{path}: {name}", packed.read(name)


def where_planted(home: Home, configs: list[Path]) -> dict[str, set[bytes]]:
    """Where planted keys are found; the configs themselves hold them."""
    found: dict[str, set[bytes]] = {}
    n_files = 0
    for path in sorted(home.folder.rglob("*")):
        if not path.is_file() or path in configs:
            continue
        for name, content in contents(path):
            n_files += 1
            if words := set(re.findall(rb"planted-\w+", content)):
                found[name] = words
    assert n_files > 20
    return found


def config_of(home: Home) -> Path:
    path = home.new("json")
    path.write_text(json.dumps(CONFIG))
    assert PLANTED in path.read_bytes()
    return path


def test_no_key_is_written_by_backtest_and_hyperopt(tmp_path: Path, market: Path) -> None:
    with ReplayExchange(market) as exchange:
        home = Home(tmp_path / "home", market, exchange.url)
        config = config_of(home)
        # Worker processes are sent what they need.
        settings = {"rl_config": {"vec_env": "subproc"}, "activate_tensorboard": True}
        command = [*home.backtesting(settings), "--config", str(config)]
        ended = home.run(command)
        assert ended.status == 0, ended.output[-2000:]
        # It was as talkative as can be.
        assert " - DEBUG - " in ended.output
        tried = home.command(
            "hyperopt",
            settings,
            spaces="sell",
            epochs=2,
            job_workers=2,
            hyperopt_loss="SharpeHyperOptLossDaily",
            # It would go beside the project's own strategy, and be in force from then on.
            disable_param_export=True,
        )
        ended = home.run([*tried, "--config", str(config)])
        assert ended.status == 0, ended.output[-2000:]
        found = where_planted(home, [config])
        # freqtrade packs the config with a backtest's results, and leaves out most keys, but not these.
        [packed] = [name for name in found if ".results/backtest-result-" in name and name.endswith("_config.json")]
        assert found.pop(packed) <= FREQTRADES_OWN
        assert found == {}


def mtfscalper(command: str, *arguments: Any, **options: Any) -> list[str]:
    """A command of the package's own."""
    words = [sys.executable, "-m", "mtfscalper.cli", command, *map(str, arguments)]
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(each)]
    return words


def test_no_key_is_written_by_training_beforehand_report_and_audit(tmp_path: Path, market: Path) -> None:
    with ReplayExchange(market) as exchange:
        home = Home(tmp_path / "home", market, exchange.url)
        config = config_of(home)
        backtesting = home.backtesting()
        # As `mtfscalper train` takes them: the same options without those of results.
        results = Path(backtesting[backtesting.index("--backtest-directory") + 1])
        overlay = [Path(word) for word in backtesting if word.endswith(".json")]
        where = {"userdir": home.user, "datadir": market, "config": [*overlay, config]}
        trained = home.run(mtfscalper("train", **where, timerange=TIMERANGE, **shipped_options()))
        assert trained.status == 0, trained.output[-2000:]
        assert "3 policies trained" in " ".join(trained.output.split())
        tested = home.run([*backtesting, "--config", str(config)])
        assert tested.status == 0, tested.output[-2000:]
        assert tested.n_trained == 0
        for command, more in (("report", {"html": home.new("html")}), ("audit", {})):
            written = home.new("json")
            ended = home.run(mtfscalper(command, results, **where, **more, json=written))
            assert ended.status in (0, 1), ended.output[-2000:]
            assert "Traceback" not in ended.output
            assert json.loads(written.read_text())
        assert len(list((home.folder / "runs").glob("*.html"))) == 1
        found = where_planted(home, [config])
        [packed] = [name for name in found if ".results/backtest-result-" in name and name.endswith("_config.json")]
        assert found.pop(packed) <= FREQTRADES_OWN
        assert found == {}


def test_no_key_is_written_by_a_dry_run(tmp_path: Path, market: Path) -> None:
    home = Home(tmp_path / "home", market, "")
    config, overlay = config_of(home), home.overlay()
    command = mtfscalper(
        "dry-run",
        datadir=market,
        userdir=home.user,
        hours=0.5,
        pairs=PAIR,
        config=[overlay, config],
        **{"from": f"{FIRST_START:%Y-%m-%dT%H:%M}"},
    )
    ended = home.run(command)
    assert ended.status == 0, ended.output[-2000:]
    log = (home.user / "logs" / "bot.log").read_text()
    assert " - DEBUG - " in log
    assert "state to: RUNNING" in log
    assert where_planted(home, [config]) == {}


def test_no_key_is_written_by_a_bot(tmp_path: Path, market: Path) -> None:
    home = Home(tmp_path / "home", market, "")
    others = {name: section for name, section in CONFIG.items() if name != "exchange"}
    settings = {"rl_config": {"vec_env": "subproc"}}
    with running_bot(home, FIRST_START, settings, **others) as bot:
        bot.decide(2)
        ended = bot.stop()
    assert ended.status == INTERRUPTED
    assert " - DEBUG - " in ended.output
    configs = [path for path in (home.folder / "runs").glob("*.json") if PLANTED in path.read_bytes()]
    assert len(configs) == 1
    assert where_planted(home, configs) == {}
    # What was written about it is there, its command among it.
    assert list((home.user / "models").rglob("bot.lock"))
