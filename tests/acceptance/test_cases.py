"""What public users tried, through the freqtrade command: it runs, or one message says at the start what to change."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from stable_baselines3 import PPO
from test_late_failures import CANDLES, assert_refused, outcome_of

from mtfscalper.machine import usable_processors
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import freqtrade_command, write_overlay
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
CASES = ROOT.parent / "shared" / "cases"
STRATEGIES = ROOT / "tests" / "freqai" / "strategies"
MODELS = ROOT / "user_data" / "freqaimodels"

pytestmark = pytest.mark.acceptance
needs_cases = pytest.mark.skipif(
    not CASES.is_dir() or not CANDLES.is_dir(), reason=f"needs the cases in {CASES} and the candles in {CANDLES}"
)


class Outcome(NamedTuple):
    """
    :ivar user: freqtrade's user directory of the run
    """

    status: int
    output: str
    user: Path

    def lines(self, words: str) -> list[str]:
        return [line for line in self.output.splitlines() if words in line]


class Cases:
    """Runs ``freqtrade backtesting`` of a case's folder as its README says, with candles of two days."""

    def __init__(self, scratch: Path, url: str) -> None:
        self._scratch, self._url, self._count = scratch, url, 0

    def run(self, case: str, rl_config: dict[str, Any] | None = None, **options: Any) -> Outcome:
        """
        :param case: the beginning of its folder's name
        :param rl_config: changes of that section
        """
        self._count += 1
        user = self._scratch / f"user{self._count}"
        user.mkdir()
        [folder] = CASES.glob(f"{case}-*")
        overlay = write_overlay(user / "overlay.json", self._url, {"freqai": {"rl_config": rl_config or {}}})
        command = freqtrade_command(
            "backtesting",
            [folder / "config.json", overlay],
            timerange="20250201-20250202",
            userdir=user,
            datadir=CANDLES,
            strategy_path=folder,
            strategy="ReadsActions",
            **{"freqaimodel": "MtfScalperRLModel", "freqaimodel_path": MODELS, **options},
            no_color=True,
        )
        return Outcome(*outcome_of(command), user)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cases]:
    with ReplayExchange(CANDLES) as exchange:
        yield Cases(tmp_path_factory.mktemp("cases"), exchange.url)


def assert_ran(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.output
    assert "Traceback" not in outcome.output
    assert "BACKTESTING REPORT" in outcome.output


@needs_cases
def test_case_01_a_strategy_that_reads_actions_runs_on_a_config_with_nothing_for_it(cases: Cases) -> None:
    outcome = cases.run("01")
    assert_ran(outcome)
    assert len(outcome.lines("ReadsActions: entry_mode 'auto' is 'agent', for the strategy sets no classic")) == 1


@needs_cases
@pytest.mark.parametrize("mode", ["gated", "classic"])
def test_case_01_in_a_mode_that_needs_signals_is_refused_before_the_training(cases: Cases, mode: str) -> None:
    outcome = cases.run("01", {"entry_mode": mode})
    assert_refused(outcome[:2], f"freqai.rl_config.entry_mode is '{mode}', and ReadsActions sets no classic_long and")


@needs_cases
def test_case_02_a_reward_in_a_nested_environment_is_asked(cases: Cases, tmp_path: Path) -> None:
    [folder] = CASES.glob("02-*")
    # The module has moved since the case was written.
    source = (folder / "OwnRewardModel.py").read_text().replace("mtfscalper.freqai_model", "mtfscalper.freqai.model")
    (tmp_path / "OwnRewardModel.py").write_text(source)
    outcome = cases.run("02", freqaimodel="OwnRewardModel", freqaimodel_path=tmp_path)
    # The case's raises, and the run says where.
    assert outcome.status != 0
    [line] = outcome.lines("ERROR - Training of BTC/USDT:USDT")
    assert "OwnRewardError: MyRLEnv.calculate_reward fails in" in line
    assert 'OwnRewardModel.py, line 11 (raise RuntimeError("MY REWARD WAS CALLED"))' in line
    assert "BACKTESTING REPORT" not in outcome.output


OWN_REWARD = """
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv, Positions

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class OwnRewardModel(MtfScalperFreqaiModel):
    class MyRLEnv(Base5ActionRLEnv):
        def calculate_reward(self, action):
            parameters = self.rl_config["model_reward_parameters"]
            if not self._is_valid(action):
                return parameters["invalid_action_penalty"]
            if self._position == Positions.Neutral:
                return parameters["idle_penalty"] if action == 0 else 0.0
            rsi = self.raw_features.filter(like="rsi").iloc[self._current_tick, 0]
            return self.get_unrealized_profit() * parameters["hold_penalty_factor"] + rsi / 1000
"""


@needs_cases
def test_cases_02_and_15_an_own_reward_with_its_own_parameters_trains_another_policy(
    cases: Cases, tmp_path: Path
) -> None:
    (tmp_path / "OwnRewardModel.py").write_text(OWN_REWARD)
    own = {"freqaimodel": "OwnRewardModel", "freqaimodel_path": tmp_path}
    weights: dict[str, Any] = {}
    for name, outcome in {
        "default": cases.run("02"),
        "own, batched": cases.run("15", **own),
        "own, subproc": cases.run("15", {"vec_env": "subproc"}, **own),
    }.items():
        assert_ran(outcome)
        [path] = outcome.user.glob("models/case/sub-train-*/*_model.zip")
        weights[name] = PPO.load(path, device="cpu").policy.state_dict()
        [report] = outcome.user.glob("models/case/sub-train-*/training_report.json")
        assert ("calculate_reward" in json.loads(report.read_text())["reward_terms"]) == (name != "default")
        assert len(outcome.lines("vec_env 'batched' runs as 'dummy'")) == (name == "own, batched")
    default, batched, subproc = weights.values()
    assert all(torch.equal(batched[layer], subproc[layer]) for layer in batched)
    assert not all(torch.equal(batched[layer], default[layer]) for layer in batched)


@needs_cases
def test_case_04_the_documented_defaults_are_those_of_the_run(cases: Cases) -> None:
    outcome = cases.run("04")
    assert_ran(outcome)
    assert len(outcome.lines("an episode ends 50 % below its peak")) == 1
    assert outcome.lines(f"torch runs {min(8, usable_processors())} intra-op and")
    [path] = outcome.user.glob("models/case/sub-train-*/*_model.zip")
    assert PPO.load(path, device="cpu").policy_kwargs["net_arch"] == [512, 512, 256]


@needs_cases
def test_case_04_what_is_written_counts_in_a_file_as_in_the_environment(
    cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREQTRADE__FREQAI__RL_CONFIG__MAX_TRAINING_DRAWDOWN_PCT", "0.02")
    outcome = cases.run("04", {"net_arch": [128, 128]})
    assert_ran(outcome)
    assert len(outcome.lines("an episode ends 2 % below its peak")) == 1
    [path] = outcome.user.glob("models/case/sub-train-*/*_model.zip")
    assert PPO.load(path, device="cpu").policy_kwargs["net_arch"] == [128, 128]


@needs_cases
def test_case_08_a_recurrent_policy_decides_with_its_memory_or_not_at_all(cases: Cases) -> None:
    outcome = cases.run("14", {"policy_type": "MlpLstmPolicy"})
    assert_ran(outcome)
    assert not outcome.lines("memory")
    outcome = cases.run("14", {"policy_type": "MlpLstmPolicy", "decision_mode": "exact"})
    assert_refused(outcome[:2], "freqai.rl_config.decision_mode is 'exact' and model_type 'RecurrentPPO'")
    assert "remedy: set decision_mode to 'replay'" in outcome.output


@needs_cases
def test_case_14_a_recurrent_policy_under_the_default_name_is_refused(cases: Cases) -> None:
    outcome = cases.run("14")
    assert_refused(
        outcome[:2], "freqai.rl_config.policy_type is 'MlpPolicy'; accepted: 'MlpLstmPolicy' with RecurrentPPO"
    )
    assert "remedy: set it so" in outcome.output


@needs_cases
def test_case_15_public_names_of_a_reward_get_their_counterparts(cases: Cases) -> None:
    outcome = cases.run("15")
    section = "freqai.rl_config.model_reward_parameters"
    for key, value, weight in (
        ("invalid_action_penalty", -2, "'invalid_weight': 2"),
        ("idle_penalty", -1, "'idle_weight': 1"),
        ("hold_penalty_factor", 1, "'duration_weight': 1"),
    ):
        assert_refused(outcome[:2], f"{section}.{key} is {value}, an unknown key")
        assert f"write {weight} for {key} {value}" in outcome.output
    assert outcome.output.count("the reward here is a sum of terms, each with its weight") == 3


# ---------------------------------------------------------------------- freqtrade's documentation

# Its page on reinforcement learning, and its example config for FreqAI.
DOCUMENTED: dict[str, Any] = {
    "enabled": True,
    "purge_old_models": 2,
    "train_period_days": 4,
    "backtest_period_days": 2,
    "live_retrain_hours": 0,
    "identifier": "uniqe-id",
    "feature_parameters": {
        "include_timeframes": ["5m", "15m", "1h"],
        "include_corr_pairlist": ["BTC/USDT:USDT", "ETH/USDT:USDT"],
        "label_period_candles": 20,
        "include_shifted_candles": 2,
        "DI_threshold": 0.9,
        "weight_factor": 0.9,
        "principal_component_analysis": False,
        "use_SVM_to_remove_outliers": True,
        "indicator_periods_candles": [10, 20],
        "plot_feature_importances": 0,
    },
    "data_split_parameters": {"test_size": 0.33, "random_state": 1},
    "model_training_parameters": {},
    "rl_config": {
        # One in place of 25, to be done in a test.
        "train_cycles": 1,
        "thread_count": 4,
        "add_state_info": True,
        "max_trade_duration_candles": 300,
        "max_training_drawdown_pct": 0.02,
        "cpu_count": 8,
        "model_type": "PPO",
        "policy_type": "MlpPolicy",
        "model_reward_parameters": {"rr": 1, "profit_aim": 0.025},
    },
}


def test_freqtrades_documented_config_and_strategy_run_with_nothing_of_this_package(tmp_path: Path) -> None:
    write_market(tmp_path / "data")
    user = tmp_path / "user"
    user.mkdir()
    config = {
        "trading_mode": "futures",
        "margin_mode": "isolated",
        "max_open_trades": 5,
        "stake_currency": "USDT",
        "stake_amount": 200,
        "tradable_balance_ratio": 1,
        "dry_run": True,
        "timeframe": "5m",
        "dry_run_wallet": 1000,
        "entry_pricing": {"price_side": "same", "use_order_book": True, "order_book_top": 1},
        "exit_pricing": {"price_side": "other", "use_order_book": True, "order_book_top": 1},
        "exchange": {"name": "binance", "pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"]},
        "pairlists": [{"method": "StaticPairList"}],
        "freqai": DOCUMENTED,
    }
    (user / "config.json").write_text(json.dumps(config))
    with ReplayExchange(tmp_path / "data") as exchange:
        command = freqtrade_command(
            "backtesting",
            [user / "config.json", write_overlay(tmp_path / "overlay.json", exchange.url, {})],
            timerange="20241001-20241003",
            userdir=user,
            datadir=tmp_path / "data",
            strategy_path=STRATEGIES,
            strategy="ColumnOnlyStrategy",
            freqaimodel="MtfScalperRLModel",
            freqaimodel_path=MODELS,
            no_color=True,
        )
        outcome = Outcome(*outcome_of(command), user)
    assert_ran(outcome)
    assert len(outcome.lines("entry_mode 'auto' is 'agent'")) == 1
    [warning] = outcome.lines("keys of other models, which nothing here reads")
    assert "freqai.rl_config.thread_count (nearest: freqai.rl_config.cpu_count)" in warning
    assert len(outcome.lines("an episode ends 2 % below its peak")) == 2
    shutil.rmtree(user)
