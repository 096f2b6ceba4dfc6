"""FreqAI in this process: freqtrade's configuration, resolvers and backtester, an exchange without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from candles_read_once import remember
from freqtrade.configuration import Configuration
from freqtrade.data.history import get_timerange
from freqtrade.enums import RunMode
from freqtrade.exchange import Exchange
from freqtrade.misc import deep_merge_dicts
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.resolvers import ExchangeResolver
from freqtrade.strategy import IStrategy
from parity.backtester import MARKET, PAIR, TIER
from random_markets import make_decisive
from shipped import STRATEGIES
from stable_baselines3.common.policies import ActorCriticPolicy

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.columns import PREDICTION_COLUMNS
from mtfscalper.freqai.policy_store import PolicyStore
from mtfscalper.freqai.run_plan import RunPlan
from mtfscalper.policy import closed_loop
from mtfscalper.policy.closed_loop import ClosedLoop
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.member import Member
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.request import TrainingRequest

remember()

OTHER_PAIR = "ETH/USDT:USDT"
ROOT = Path(__file__).parents[2]
STRATEGY = "MtfScalper_RL_Hybrid"
IDENTIFIER = "test"
TIMERANGE = "20240905-20240908"
# The last day before each of the three periods of that timerange, as FreqAI names them.
PERIODS = (1725494400, 1725580800, 1725667200)

TINY: dict[str, Any] = {
    "max_open_trades": 1,
    "fee": 0.0005,
    # Ample beside the eight decimals to which freqtrade rounds a profit, so that ratios keep twelve.
    "stake_amount": 1e6,
    "dry_run_wallet": 1e9,
    "exchange": {"pair_whitelist": [PAIR]},
    "freqai": {
        "identifier": IDENTIFIER,
        "train_period_days": 2,
        "backtest_period_days": 1,
        "activate_tensorboard": False,
        "rl_config": {
            "train_cycles": 1,
            "n_envs": 2,
            "n_steps": 64,
            "batch_size": 32,
            "n_epochs": 1,
            "net_arch": [16],
            "vec_env": "dummy",
            "cpu_count": 1,
            "interop_threads": 1,
            "progress_bar": False,
            "device": "cpu",
            "decision_mode": "replay",
            # A test looks into it.
            "live_training": "thread",
        },
    },
}


def configuration(
    home: Path,
    datadir: Path,
    runmode: RunMode = RunMode.BACKTEST,
    timerange: str = TIMERANGE,
    strategy: str = STRATEGY,
    strategy_path: Path = STRATEGIES,
    model_path: Path = ROOT / "user_data" / "freqaimodels",
    **overlay: Any,
) -> tuple[dict[str, Any], Exchange]:
    """The project's main configuration under a tiny overlay, as the freqtrade command would load it.

    :param home: becomes freqtrade's user directory
    """
    (home / "freqaimodels").mkdir(parents=True, exist_ok=True)
    (home / "models").mkdir(exist_ok=True)
    file = home / "overlay.json"
    file.write_text(json.dumps(deep_merge_dicts(overlay, json.loads(json.dumps(TINY)))))
    arguments = {
        "config": [str(ROOT / "configs" / "config_rl_hybrid.json"), str(file)],
        "user_data_dir": str(home),
        "datadir": str(datadir),
        "strategy": strategy,
        "strategy_path": str(strategy_path),
        "freqaimodel": "MtfScalperRLModel",
        "freqaimodel_path": str(model_path),
        "timerange": timerange if runmode == RunMode.BACKTEST else None,
    }
    config = Configuration(arguments, runmode).get_config()
    exchange = ExchangeResolver.load_exchange(config, validate=False)
    for pair in (PAIR, OTHER_PAIR):
        base = pair.split("/")[0]
        exchange._markets[pair] = MARKET | {"id": f"{base}USDT", "symbol": pair, "base": base}
        exchange._leverage_tiers[pair] = [TIER]
    return config, exchange


def loosen_signals(strategy: IStrategy) -> None:
    """More signals in three days than the defaults give."""
    for name, value in (("adx_base", 12), ("adx_middle", 10), ("adx_high", 5), ("rsi_low", 35), ("rsi_high", 80)):
        getattr(strategy, name).value = value


class FreqtradeBacktest:
    """One ``freqtrade backtesting`` with FreqAI, from its configuration to its trades.

    :ivar strategy: the strategy object, to be changed before :meth:`run`
    :ivar results: freqtrade's trades, after :meth:`trades`
    """

    def __init__(self, home: Path, datadir: Path, **overlay: Any) -> None:
        self.home = home
        config, exchange = configuration(home, datadir, **overlay)
        self.backtesting = Backtesting(config, exchange)
        self.candles, self.timerange = self.backtesting.load_bt_data()
        [self.strategy] = self.backtesting.strategylist
        self.backtesting._set_strategy(self.strategy)
        if self.strategy.get_strategy_name() == STRATEGY:
            loosen_signals(self.strategy)
        self.frame = pd.DataFrame()
        self.frames: dict[str, pd.DataFrame] = {}
        self.results = pd.DataFrame()

    @property
    def models(self) -> Path:
        return self.home / "models" / IDENTIFIER

    def folder(self, period: int) -> Path:
        return self.models / f"sub-train-BTC_{period}"

    def feather(self, period: int) -> Path:
        return self.models / "backtesting_predictions" / f"cb_btc_{period}_prediction.feather"

    @property
    def store(self) -> PolicyStore:
        """What decides about the run's open trades, in exact mode."""
        store: PolicyStore = self.strategy.trade_decisions._store
        return store

    @property
    def archive(self) -> Archive:
        return Archive.from_config(self.backtesting.config)

    def version(self, period: int) -> Path:
        """The folder of a sealed period that the run's trades are decided from."""
        plan = RunPlan.newest(self.archive, PAIR)
        [planned] = [planned for planned in plan.periods if planned.first_ms == period * 1000]
        return self.archive.root / planned.folder

    def run(self, pair: str = PAIR) -> pd.DataFrame:
        """Train and predict every pair.

        :return: the strategy's rows of one pair in the timerange, with their predictions
        """
        self.frames = self.strategy.advise_all_indicators(self.candles)
        self.frame = self.frames[pair]
        dates = self.frame["date"]
        inside = (dates >= self.timerange.startdt) & (dates < self.timerange.stopdt)
        return self.frame[inside].reset_index(drop=True)

    def trades(self) -> pd.DataFrame:
        """What freqtrade's backtester makes of the predictions."""
        dates = self.frame.loc[self.frame["date"] >= self.timerange.startdt, "date"]
        first, last = get_timerange({PAIR: dates.to_frame()})
        # A backtest uses its frames up.
        processed = {pair: frame.copy() for pair, frame in self.frames.items()}
        self.results = self.backtesting.backtest(processed=processed, start_date=first, end_date=last)["results"]
        return self.results


class Watch:
    """Looks on as periods are trained and replayed.

    :ivar trained: pairs of the trainings, in their order
    :ivar replayed: what each period's replay gave
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, policy: str = "random", leaves: float = 0.01) -> None:
        """
        :param policy: what becomes of each trained policy: ``trained`` leaves it as it is, ``decisive`` gives it
            large logits, so that it trades in three days, ``random`` does so with weights that training never saw
        :param leaves: share of its chances at which a policy of large logits leaves
        """
        self.trained: list[str] = []
        self.replayed: list[ClosedLoop] = []
        real_training, real_finish, real_run = TrainingJob.run, Member.finish, closed_loop.run

        def train(job: TrainingJob, *arguments: Any) -> Any:
            return changed(job, *real_training(job, *arguments))

        def finish(member: Member, *arguments: Any) -> Any:
            return changed(member.job, *real_finish(member, *arguments))

        def changed(job: TrainingJob, model: Any, report: Any) -> Any:
            self.trained.append(job.train.pair)
            if not isinstance(model.policy, ActorCriticPolicy):
                # Weights of another shape, which stay as they were trained.
                return model, report
            if policy == "random":
                # The same weights for the same period, whatever was trained before it.
                randomise(model.policy, seed=int(job.train.dates_ms[0] // 86_400_000))
            if policy != "trained":
                make_decisive(model.policy, job.train.features, job.settings.lookback, leaves)
            return model, report

        def run(*arguments: Any, **keywords: Any) -> ClosedLoop:
            done = real_run(*arguments, **keywords)
            # Not the evaluations of a training, which close what is open at the end.
            if not keywords.get("last_candle_closes"):
                self.replayed.append(done)
            return done

        if policy != "trained":
            # Its weights are changed afterwards anyway.
            monkeypatch.setattr(TrainingRequest, "begin_report", shortened(TrainingRequest.begin_report))
        # Else an edit of the package while tests run would make everything anew.
        monkeypatch.setattr(artefacts, "code_hash", lambda: "this code")
        monkeypatch.setattr(TrainingJob, "run", train)
        # One of a population, which no job runs.
        monkeypatch.setattr(Member, "finish", finish)
        monkeypatch.setattr(closed_loop, "run", run)

    def forget(self) -> None:
        self.trained.clear()
        self.replayed.clear()


def shortened(
    begin_report: Callable[[TrainingRequest], TrainingReport],
) -> Callable[[TrainingRequest], TrainingReport]:
    """The beginning of a training that ends after one rollout."""

    def begin(request: TrainingRequest) -> TrainingReport:
        report = begin_report(request)
        report.timesteps_asked = 1
        return report

    return begin


def randomise(policy: torch.nn.Module, seed: int) -> None:
    """Give a policy new random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in policy.modules():
            if isinstance(module, torch.nn.Linear):
                module.reset_parameters()


def predictions(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that a policy left."""
    return rows[["date", *PREDICTION_COLUMNS, "do_predict"]]
