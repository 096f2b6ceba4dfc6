"""``freqtrade hyperopt`` over the exits of an exact policy, in worker processes that have no FreqAI model."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqtrade.data.btanalysis import load_backtest_stats
from freqtrade.optimize.hyperopt_tools import HyperoptTools
from freqtrade_command import output_of

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import Option, freqtrade_command, project_options, write_overlay
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
STRATEGY = ROOT / "strategies" / "MtfScalper_RL_Hybrid.py"
MARKET = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 12, tzinfo=UTC)
TIMERANGE = "20240905-20240911"
N_EPOCHS, N_STOPLOSS_EPOCHS = 12, 4
CANDLE_MINUTES = 5
LONGEST_CANDLES = 96
STOPLOSS_IN_TRAINING = -0.02
TRAINING = "Starting training"

FREQAI: dict[str, Any] = {
    "identifier": "hyperopt",
    "train_period_days": 2,
    "backtest_period_days": 2,
    "activate_tensorboard": False,
    "rl_config": {
        "decision_mode": "exact",
        # Every signal is a trade, so that six days have enough of them.
        "entry_mode": "classic",
        # Around where hyperopt looks for exit_probability_min: some epochs leave by policy, others never do.
        "initial_exit_probability": 0.5,
        "train_cycles": 2,
        "n_envs": 4,
        "n_steps": 128,
        "batch_size": 128,
        "n_epochs": 2,
        "learning_rate": 0.003,
        "net_arch": [16],
        "vec_env": "batched",
        "cpu_count": 1,
        "interop_threads": 1,
        "device": "cpu",
        "progress_bar": False,
        "max_trade_duration_candles": LONGEST_CANDLES,
    },
}

pytestmark = pytest.mark.acceptance

Epoch = dict[str, Any]


class Freqtrade:
    """The freqtrade command on a synthetic market, its files in a folder of their own.

    :ivar strategies: where the strategy is found, and beside it the parameters that hyperopt exports
    """

    def __init__(self, home: Path, url: str) -> None:
        self._home = home
        self.strategies = home / "strategies"
        self._results = home / "user" / "hyperopt_results"
        for folder in (self.strategies, self._results, home / "user" / "models", home / "user" / "backtest_results"):
            folder.mkdir(parents=True)
        (self.strategies / STRATEGY.name).write_text(STRATEGY.read_text(encoding="utf-8"), encoding="utf-8")
        self._overlay = write_overlay(home / "overlay.json", url, {"freqai": FREQAI})

    def run(self, subcommand: str, **options: Option) -> str:
        """Give the output of a command that succeeds."""
        command = freqtrade_command(
            subcommand,
            [ROOT / "configs" / "config_rl_hybrid.json", self._overlay],
            timerange=TIMERANGE,
            no_color=True,
            userdir=self._home / "user",
            datadir=self._home / "data",
            **(project_options(ROOT) | {"strategy_path": self.strategies} | options),
        )
        return output_of(command, cwd=self._home)

    def hyperopt(self, spaces: str, n_epochs: int, n_jobs: int) -> tuple[list[Epoch], str]:
        """Run hyperopt from the same random state as every other time; gives its epochs and its output."""
        # freqtrade names a results file by the second.
        known = set(self._results.glob("*.fthypt"))
        output = self.run(
            "hyperopt",
            spaces=spaces,
            epochs=n_epochs,
            job_workers=n_jobs,
            random_state=7,
            hyperopt_loss="SharpeHyperOptLossDaily",
            disable_param_export=True,
        )
        [written] = set(self._results.glob("*.fthypt")) - known
        return [json.loads(line) for line in written.read_text().splitlines()], output

    def backtest(self) -> tuple[dict[str, Any], str]:
        """Run a backtest; gives its results and its output."""
        output = self.run("backtesting", export="trades")
        return load_backtest_stats(self._home / "user" / "backtest_results")["strategy"][STRATEGY.stem], output

    def records(self) -> list[Path]:
        """Records of decisions, the newest last."""
        files = (self._home / "user" / "decisions" / FREQAI["identifier"]).glob("*.feather")
        return sorted(files, key=lambda file: file.stat().st_mtime)


@pytest.fixture(scope="module")
def freqtrade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Freqtrade]:
    home = tmp_path_factory.mktemp("hyperopt")
    write_market(home / "data", start=MARKET[0], stop=MARKET[1])
    with ReplayExchange(home / "data") as exchange:
        yield Freqtrade(home, exchange.url)


@pytest.fixture(scope="module")
def trained(freqtrade: Freqtrade) -> list[Epoch]:
    """The epochs of the run that trains the policies, by two workers."""
    epochs, output = freqtrade.hyperopt("sell", N_EPOCHS, n_jobs=2)
    assert TRAINING in output
    # An epoch is no run of the user's: it leaves no record.
    assert freqtrade.records() == []
    print()
    for epoch in epochs:
        print(epoch["params_dict"], f"{epoch['total_profit']:+.4f}", counted_reasons(epoch))
    return epochs


def trades_of(epoch: Epoch) -> list[dict[str, Any]]:
    return epoch["results_metrics"]["trades"]


def counted_reasons(epoch: Epoch) -> dict[str, int]:
    reasons = [trade["exit_reason"] for trade in trades_of(epoch)]
    return {name: reasons.count(name) for name in sorted(set(reasons))}


def verdict(epoch: Epoch) -> dict[str, Any]:
    """All that an epoch comes to, but not when it ran."""
    metrics = epoch["results_metrics"]
    return {
        "loss": epoch["loss"],
        "profit": epoch["total_profit"],
        "trade count": metrics["total_trades"],
        "final balance": metrics["final_balance"],
        "trades": metrics["trades"],
    }


def identity(trade: dict[str, Any]) -> tuple[Any, ...]:
    """A trade without its ratios, to whose last digit the two files of results are not written alike."""
    names = ("pair", "is_short", "open_timestamp", "close_timestamp", "open_rate", "close_rate", "amount", "profit_abs")
    return (*(trade[name] for name in names), trade["exit_reason"])


def test_an_epoch_trades_by_its_own_parameters(trained: list[Epoch]) -> None:
    assert len(trained) == N_EPOCHS
    for epoch in trained:
        parameters = epoch["params_dict"]
        longest = max(1, int(LONGEST_CANDLES * parameters["duration_share"])) * CANDLE_MINUTES
        durations = {trade["trade_duration"] for trade in trades_of(epoch) if trade["exit_reason"] == "max_duration"}
        assert durations <= {longest}
        assert max(trade["trade_duration"] for trade in trades_of(epoch)) <= longest
        for trade in trades_of(epoch):
            if trade["exit_reason"] == "breakeven":
                assert parameters["breakeven_trigger"] > 0
                # The profit was gone at the open that it left at, which is where it filled.
                assert trade["profit_ratio"] <= 0
    # None of it holds for want of trades: what each parameter governs closes many in some epochs, few in others.
    for name in ("rl_exit", "breakeven", "max_duration"):
        counts = [counted_reasons(epoch).get(name, 0) for epoch in trained]
        assert max(counts) > 10
        assert min(counts) < max(counts) / 2
    assert len({epoch["total_profit"] for epoch in trained}) > N_EPOCHS / 2


def test_the_same_random_state_gives_the_same_epochs_from_the_prediction_cache(
    freqtrade: Freqtrade, trained: list[Epoch]
) -> None:
    again, output = freqtrade.hyperopt("sell", N_EPOCHS, n_jobs=2)
    assert TRAINING not in output
    assert output.count("Found backtesting prediction file") == 2 * 3
    assert [epoch["params_dict"] for epoch in again] == [epoch["params_dict"] for epoch in trained]
    for one, other in zip(trained, again, strict=True):
        assert verdict(one) == verdict(other)


def test_one_process_decides_as_two_workers_do(freqtrade: Freqtrade, trained: list[Epoch]) -> None:
    """One job runs in freqtrade's own process, where a single strategy object lives through all epochs."""
    alone, output = freqtrade.hyperopt("sell", N_EPOCHS, n_jobs=1)
    assert "Effective number of parallel workers used: 1" in output
    assert TRAINING not in output
    by_parameters = {json.dumps(epoch["params_dict"], sort_keys=True): epoch for epoch in alone}
    shared = [
        (epoch, by_parameters[key])
        for epoch in trained
        if (key := json.dumps(epoch["params_dict"], sort_keys=True)) in by_parameters
    ]
    # The first generation of the sampler does not look at results: asked one at a time or two, it is the same.
    assert len(shared) == N_EPOCHS
    assert sum(counted_reasons(epoch).get("rl_exit", 0) for epoch, _ in shared) > 2
    for ours, theirs in shared:
        assert verdict(ours) == verdict(theirs)


def test_a_backtest_with_an_epochs_parameters_makes_its_trades(freqtrade: Freqtrade, trained: list[Epoch]) -> None:
    epoch = max(trained, key=lambda epoch: counted_reasons(epoch).get("rl_exit", 0))
    parameters = freqtrade.strategies / f"{STRATEGY.stem}.json"
    HyperoptTools.export_params(epoch, STRATEGY.stem, parameters)
    try:
        results, output = freqtrade.backtest()
    finally:
        parameters.unlink()
    assert "Loading parameters from file" in output
    assert TRAINING not in output
    assert [identity(trade) for trade in results["trades"]] == [identity(trade) for trade in trades_of(epoch)]
    assert results["profit_total"] == pytest.approx(epoch["total_profit"], rel=1e-12)
    # It left when the policy gave leaving the epoch's least probability, and not before.
    record = pd.read_feather(freqtrade.records()[-1])
    assert record["leave"].tolist() == (record["probability"] >= epoch["params_dict"]["exit_probability_min"]).tolist()
    assert record["leave"].sum() == counted_reasons(epoch)["rl_exit"]
    # The control: by its own parameters the strategy makes other trades.
    plain, _ = freqtrade.backtest()
    assert [identity(trade) for trade in plain["trades"]] != [identity(trade) for trade in results["trades"]]


@pytest.mark.parametrize("n_jobs", [2, 1])
def test_a_stoploss_that_no_policy_was_trained_for_is_warned_of(
    freqtrade: Freqtrade, trained: list[Epoch], n_jobs: int
) -> None:
    epochs, output = freqtrade.hyperopt("stoploss", N_STOPLOSS_EPOCHS, n_jobs)
    assert len(epochs) == N_STOPLOSS_EPOCHS
    assert TRAINING not in output
    for epoch in epochs:
        stoploss = epoch["params_dict"]["stoploss"]
        assert stoploss != STOPLOSS_IN_TRAINING
        warning = f"trained for another value: stoploss is {stoploss}, and was {STOPLOSS_IN_TRAINING}."
        assert output.count(warning) == 1, warning
