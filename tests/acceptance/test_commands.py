"""Every freqtrade command that meets this package works, or says in one sentence why not. Views change nothing.

``trade`` has a file of its own, ``test_dry_run.py``, as has what ``hyperopt`` finds, ``test_hyperopt.py``.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pandas as pd
import pytest
from freqtrade_command import output_of
from shipped import STRATEGIES, shipped_options
from tiny_rl import TINY_RL

from mtfscalper.artefacts import file_hash
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import (
    FREQAI_MODEL,
    STRATEGY,
    Option,
    freqtrade_command,
    running,
    write_overlay,
)
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "config_rl_hybrid.json"
PAIR = "BTC/USDT:USDT"
MARKET = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 12, tzinfo=UTC)
TIMERANGE = "20240905-20240909"
SHOWN = "the policy's columns are those of the last backtest"
TRAINING = "Starting training"
LONGEST_SECONDS = 600
USER = "freqtrader", "a password of a test"

FREQAI: dict[str, Any] = {
    "identifier": "commands",
    "train_period_days": 2,
    "backtest_period_days": 2,
    "activate_tensorboard": False,
    "rl_config": {
        **TINY_RL,
        "decision_mode": "exact",
        "entry_mode": "classic",
        "initial_exit_probability": 0.5,
        "vec_env": "batched",
    },
}

pytestmark = pytest.mark.acceptance


class Freqtrade:
    """The freqtrade command on a synthetic market, its files in a folder of their own."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url
        self.user = home / "user"
        for folder in ("models", "backtest_results", "hyperopt_results", "plot", "strategies"):
            (self.user / folder).mkdir(parents=True)
        shutil.copy(ROOT / "strategies" / f"{STRATEGY}.py", self.user / "strategies")
        self.overlay = self.config("overlay")

    def config(self, name: str, identifier: str = "commands", **more: Any) -> Path:
        sections = {"freqai": FREQAI | {"identifier": identifier}, "exchange_pairs": [PAIR], **more}
        path = write_overlay(self.home / f"{name}.json", self.url, sections)
        values = json.loads(path.read_text())
        values["exchange"]["pair_whitelist"] = values.pop("exchange_pairs")
        path.write_text(json.dumps(values))
        return path

    def command(self, subcommand: str, overlay: Path | None = None, **options: Option) -> list[str]:
        return freqtrade_command(
            subcommand, [CONFIG, overlay or self.overlay], no_color=True, userdir=self.user, **options
        )

    def run(self, subcommand: str, overlay: Path | None = None, **options: Option) -> str:
        return output_of(self.command(subcommand, overlay, **options), cwd=self.home)

    def with_policy(self, subcommand: str, overlay: Path | None = None, **options: Option) -> str:
        """Run a command that builds the strategy and the model."""
        where = {"datadir": self.home / "data", "timerange": TIMERANGE}
        return self.run(subcommand, overlay, **(shipped_options() | where | options))

    def models(self) -> dict[str, str]:
        """Every file under the folders of models and of decisions by its hash, and the folders."""
        paths = sorted(path for folder in ("models", "decisions") for path in (self.user / folder).rglob("*"))
        return {str(path): file_hash(path) if path.is_file() else "" for path in paths}


@pytest.fixture(scope="module")
def freqtrade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Freqtrade]:
    """With a backtest done."""
    home = tmp_path_factory.mktemp("commands")
    write_market(home / "data", start=MARKET[0], stop=MARKET[1], pairs=[PAIR])
    with ReplayExchange(home / "data") as exchange:
        made = Freqtrade(home, exchange.url)
        assert TRAINING in made.with_policy("backtesting", export="signals")
        yield made


@pytest.fixture
def untouched(freqtrade: Freqtrade) -> Iterator[None]:
    """Nothing under these folders is another thing after the test than before it."""
    before = freqtrade.models()
    assert len(before) > 8
    yield
    assert freqtrade.models() == before


def test_the_same_backtest_trains_nothing_again(freqtrade: Freqtrade) -> None:
    assert TRAINING not in freqtrade.with_policy("backtesting", export="none")


@pytest.mark.usefixtures("untouched")
def test_plot_dataframe_draws_a_futures_chart_with_the_policys_columns(freqtrade: Freqtrade) -> None:
    [result] = (freqtrade.user / "backtest_results").glob("*.zip")
    output = freqtrade.with_policy("plot-dataframe", pairs=[PAIR], backtest_filename=result)
    assert SHOWN in output
    assert "decisions about open trades are shown" in output
    assert TRAINING not in output
    [drawn] = (freqtrade.user / "plot").glob("freqtrade-plot-BTC*.html")
    assert "p_exit" in drawn.read_text(encoding="utf-8")


@pytest.mark.usefixtures("untouched")
def test_plot_dataframe_of_days_without_a_backtest_says_what_to_run(freqtrade: Freqtrade) -> None:
    output = freqtrade.with_policy("plot-dataframe", pairs=[PAIR], timerange="20240909-20240911")
    assert "run: freqtrade backtesting --timerange 20240909-20240911" in output.replace("\n", " ")
    assert TRAINING not in output


@pytest.mark.usefixtures("untouched")
def test_plot_profit_draws(freqtrade: Freqtrade) -> None:
    freqtrade.with_policy("plot-profit", pairs=[PAIR])
    assert (freqtrade.user / "plot" / "freqtrade-profit-plot.html").is_file()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("subcommand", "options", "told"),
    [
        ("backtesting-show", {}, STRATEGY),
        ("backtesting-analysis", {"analysis_groups": ["0", "2"]}, "rl_exit"),
        ("list-strategies", {"strategy_path": STRATEGIES}, STRATEGY),
        ("list-freqaimodels", {"freqaimodel_path": ROOT / "user_data" / "freqaimodels"}, FREQAI_MODEL),
        ("show-config", {}, "commands"),
        ("list-data", {"datadir": "data"}, PAIR),
        ("list-pairs", {}, PAIR),
        ("list-markets", {}, PAIR),
        ("list-timeframes", {}, "5m"),
    ],
)
def test_a_command_that_lists_works(
    freqtrade: Freqtrade, subcommand: str, options: dict[str, Option], told: str
) -> None:
    if subcommand == "show-config":
        command = [*freqtrade_command(subcommand, [CONFIG, freqtrade.overlay]), "--userdir", str(freqtrade.user)]
        output = output_of(command, cwd=freqtrade.home)
    else:
        output = freqtrade.run(subcommand, **options)
    assert told in output


@pytest.mark.usefixtures("untouched")
def test_test_pairlist_names_the_pairs(freqtrade: Freqtrade) -> None:
    command = freqtrade_command("test-pairlist", [CONFIG, freqtrade.overlay], userdir=freqtrade.user)
    assert PAIR in output_of(command, cwd=freqtrade.home)


@pytest.mark.usefixtures("untouched")
def test_trades_are_shown_and_their_database_converted(freqtrade: Freqtrade) -> None:
    database = f"sqlite:///{freqtrade.home / 'trades.sqlite'}"
    assert "Printing 0 Trades" in freqtrade.run("show-trades", db_url=database)
    copy = f"sqlite:///{freqtrade.home / 'copy.sqlite'}"
    # The command asks for the usual user directory, and takes no other.
    (freqtrade.home / "user_data").mkdir()
    command = freqtrade_command("convert-db", [], db_url=copy, db_url_from=database)
    output_of(command, cwd=freqtrade.home)
    assert (freqtrade.home / "copy.sqlite").is_file()


@pytest.mark.usefixtures("untouched")
def test_strategy_updater_rewrites_the_layout_alone(freqtrade: Freqtrade) -> None:
    strategy = freqtrade.user / "strategies" / f"{STRATEGY}.py"
    before = strategy.read_text(encoding="utf-8")
    freqtrade.run("strategy-updater", strategy_path=strategy.parent, strategy_list=[STRATEGY])
    after = strategy.read_text(encoding="utf-8")
    assert ast.dump(ast.parse(after)) == ast.dump(ast.parse(before))


def test_edge_says_in_one_sentence_why_not(freqtrade: Freqtrade) -> None:
    process = subprocess.run(
        freqtrade_command("edge", [CONFIG, freqtrade.overlay]),
        cwd=freqtrade.home,
        env={**os.environ, "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    assert "Edge module has been deprecated" in process.stdout + process.stderr
    assert "Traceback" not in process.stdout + process.stderr


def test_hyperopt_trains_nothing_again_and_its_epochs_are_listed(freqtrade: Freqtrade) -> None:
    output = freqtrade.with_policy(
        "hyperopt",
        spaces="sell",
        epochs=2,
        job_workers=1,
        random_state=7,
        hyperopt_loss="SharpeHyperOptLossDaily",
        disable_param_export=True,
    )
    assert TRAINING not in output
    assert "2/2" in freqtrade.run("hyperopt-list", no_details=True)
    assert "exit_probability_min" in freqtrade.run("hyperopt-show", index=1)


@pytest.mark.parametrize("subcommand", ["lookahead-analysis", "recursive-analysis"])
def test_an_analysis_trains_under_its_own_identifier_and_leaves_the_others_alone(
    freqtrade: Freqtrade, subcommand: str
) -> None:
    """freqtrade removes the models of the identifier first, and neutral columns would be a false all-clear."""
    before = freqtrade.models()
    overlay = freqtrade.config(subcommand, identifier=subcommand)
    options: dict[str, Option] = {"minimum_trade_amount": 1, "targeted_trade_amount": 1}
    if subcommand == "recursive-analysis":
        options = {"startup_candle": ["400", "500"]}
    output = freqtrade.with_policy(subcommand, overlay, timerange="20240905-20240907", **options)
    assert TRAINING in output
    after = freqtrade.models()
    assert {path: after[path] for path in before} == before


# ---------------------------------------------------------------------- FreqUI's webserver


class Api:
    """What FreqUI asks."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"
        self._login = "Basic " + base64.b64encode(":".join(USER).encode()).decode()

    def ask(self, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        url = f"{self._base}/{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": self._login, "Content-Type": "application/json"}
        try:
            with urlopen(Request(url, data=data, headers=headers), timeout=LONGEST_SECONDS) as answer:
                return json.load(answer)
        except HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error

    def await_start(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + LONGEST_SECONDS
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                self.ask("ping")
            except URLError:
                time.sleep(0.5)
            else:
                return

    def chart(self, timerange: str, path: str = "pair_history", *, post: bool = False) -> pd.DataFrame:
        asked = {"pair": PAIR, "timeframe": "5m", "timerange": timerange, "strategy": STRATEGY}
        answer = self.ask(path, body=asked) if post else self.ask(path, **asked)
        return pd.DataFrame(answer["data"], columns=answer["columns"])

    def backtest(self) -> dict[str, Any]:
        asked = {"strategy": STRATEGY, "timerange": TIMERANGE, "enable_protections": False, "backtest_cache": "none"}
        self.ask("backtest", body=asked)
        deadline = time.monotonic() + LONGEST_SECONDS
        while (answer := self.ask("backtest"))["running"]:
            assert time.monotonic() < deadline
            time.sleep(1)
        return answer


def test_the_webserver_draws_without_touching_and_backtests_as_a_backtest_does(freqtrade: Freqtrade) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = {
        "enabled": True,
        "listen_ip_address": "127.0.0.1",
        "listen_port": port,
        "username": USER[0],
        "password": USER[1],
        "jwt_secret_key": "a key of a test, as long as it is made",
        "verbosity": "error",
    }
    overlay = freqtrade.config("webserver", api_server=server, **shipped_options())
    command = freqtrade.command("webserver", overlay, datadir=freqtrade.home / "data")
    log = freqtrade.home / "webserver.log"
    api = Api(port)
    before = freqtrade.models()

    def trainings() -> int:
        # Long lines are broken for a terminal.
        return " ".join(log.read_text().split()).count(f"{TRAINING} {PAIR}")

    with log.open("wb") as output, running(command, freqtrade.home, output) as process:
        api.await_start(process)
        charts = [api.chart("20240906-20240908"), api.chart("20240906-20240908", post=True)]
        empty = api.chart("20240909-20240911")
        assert freqtrade.models() == before
        assert trainings() == 0
        for drawn in charts:
            assert (drawn["do_predict"] == 1).sum() >= 288
            assert (drawn["&-p_exit_mean"] == 0).all()
            # The columns are of a flat account; what is drawn of them was decided about the trades.
            assert (drawn["&-p_exit"] > 0).sum() > 20
            assert drawn["&-action"].isin([2, 4]).any()
        assert not (empty["do_predict"] == 1).any()
        # What FreqUI draws of them.
        panels = api.ask("plot_config", strategy=STRATEGY)["subplots"].values()
        plotted = {name for panel in panels for name in panel}
        assert {"&-p_long_enter", "&-p_short_enter", "&-p_exit", "&-action"} < plotted
        assert plotted <= set(charts[0].columns)
        # The settings are the command's, so that it has nothing to train, not even where an analysis came between.
        assert api.backtest()["status"] == "ended", log.read_text()
        assert trainings() == 0
        models = freqtrade.user / "models"
        shutil.rmtree(models / "commands")
        assert api.backtest()["status"] == "ended", log.read_text()
        assert trainings() == 0
        # With what was kept beside it gone too, it has.
        shutil.rmtree(models / "commands")
        shutil.rmtree(models / ".sealed" / "commands")
        api.chart("20240906-20240907")
        assert trainings() == 0
        assert api.backtest()["status"] == "ended", log.read_text()
        assert trainings() == 2
        assert (api.chart("20240906-20240907")["do_predict"] == 1).any()
