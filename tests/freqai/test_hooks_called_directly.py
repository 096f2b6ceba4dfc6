"""FreqAI's hooks called as freqtrade's own FreqAI tests call them: by hand, without ``start``, on mocks.

The originals are in neither of freqtrade's packages; ``make freqtrade-tests`` runs them from a checkout.
"""

import logging
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from freqai_runs import ROOT
from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType, RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import Exchange
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.persistence import Trade
from freqtrade.resolvers import ExchangeResolver, StrategyResolver
from parity.backtester import MARKET

from mtfscalper.freqai.columns import ACTION_COLUMN

PAIRS = ["ADA/BTC", "LTC/BTC"]


@pytest.fixture
def datadir(tmp_path: Path, market: Path) -> Path:
    """Spot candles of two pairs."""
    spot = tmp_path / "data"
    spot.mkdir()
    for pair in PAIRS:
        candles = pd.read_feather(market / "futures" / "BTC_USDT_USDT-5m-futures.feather")
        candles.to_feather(spot / f"{pair.replace('/', '_')}-5m.feather")
    return spot


@pytest.fixture
def freqai_conf(tmp_path: Path, datadir: Path) -> dict[str, Any]:
    """As freqtrade's fixture, a config that no schema has filled, for the RL test strategy."""
    return {
        "max_open_trades": 1,
        "stake_currency": "BTC",
        "stake_amount": 0.001,
        "timeframe": "5m",
        "dry_run": True,
        "cancel_open_orders_on_exit": False,
        "dry_run_wallet": 1000,
        "unfilledtimeout": {"entry": 10, "exit": 30},
        "entry_pricing": {"price_side": "same"},
        "exit_pricing": {"price_side": "same"},
        "exchange": {"name": "binance", "key": "", "secret": "", "pair_whitelist": PAIRS, "pair_blacklist": []},
        "pairlists": [{"method": "StaticPairList"}],
        "datadir": datadir,
        "user_data_dir": tmp_path,
        "strategy": "SpotStrategy",
        "strategy_path": str(Path(__file__).parent / "strategies"),
        "dataformat_ohlcv": "feather",
        "dataformat_trades": "feather",
        "runmode": "backtest",
        "trading_mode": "spot",
        "margin_mode": "",
        "candle_type_def": CandleType.SPOT,
        "timerange": "20240904-20240906",
        "config_files": [Path("config_examples", "config_freqai.example.json")],
        "freqaimodel": "MtfScalperRLModel",
        "freqaimodel_path": str(ROOT / "user_data" / "freqaimodels"),
        "freqai": {
            "enabled": True,
            "purge_old_models": 2,
            "train_period_days": 2,
            "backtest_period_days": 10,
            "live_retrain_hours": 0,
            "expiration_hours": 1,
            "identifier": "unique-id100",
            "live_trained_timestamp": 0,
            "data_kitchen_thread_count": 2,
            "activate_tensorboard": False,
            "feature_parameters": {
                "include_timeframes": ["5m"],
                "include_corr_pairlist": ["ADA/BTC"],
                "label_period_candles": 20,
                "include_shifted_candles": 1,
                "DI_threshold": 2,
                "weight_factor": 0.9,
                "principal_component_analysis": False,
                "use_SVM_to_remove_outliers": True,
                "stratify_training_data": 0,
                "indicator_periods_candles": [10],
                "shuffle_after_split": False,
                "buffer_train_data_candles": 0,
            },
            "data_split_parameters": {"test_size": 0.33, "shuffle": False},
            "model_training_parameters": {"learning_rate": 0.00025, "gamma": 0.9, "verbose": 1},
            "rl_config": {
                "train_cycles": 1,
                "max_trade_duration_candles": 300,
                "model_type": "PPO",
                "policy_type": "MlpPolicy",
                "max_training_drawdown_pct": 0.5,
                "net_arch": [32, 32],
                "model_reward_parameters": {"rr": 1, "profit_aim": 0.02, "win_reward_factor": 2},
                "drop_ohlc_from_features": False,
                # Beyond freqtrade's: a strategy without signals, and a small training in this process.
                "entry_mode": "agent",
                "n_envs": 2,
                "n_steps": 64,
                "batch_size": 32,
                "n_epochs": 1,
                "vec_env": "dummy",
                "device": "cpu",
                "progress_bar": False,
                "cpu_count": 1,
                "interop_threads": 1,
            },
        },
    }


def patched_freqai_strategy(config: dict[str, Any]) -> Any:
    strategy = StrategyResolver.load_strategy(config)
    strategy.ft_bot_start()
    return strategy


def patched_exchange(config: dict[str, Any]) -> Exchange:
    """An exchange whose API is a mock: whatever it is asked for, fees among it, is one too."""
    exchange = ExchangeResolver.load_exchange(deepcopy(config), validate=False)
    exchange._api = exchange._api_async = MagicMock()
    for pair in PAIRS:
        base, quote = pair.split("/")
        exchange._markets[pair] = MARKET | {"symbol": pair, "base": base, "quote": quote, "spot": True}
    return exchange


def loaded(config: dict[str, Any], live: bool, data: str = "mocked exchange") -> tuple[Any, Any]:
    """A strategy and its FreqAI model, ready for the hooks."""
    strategy = patched_freqai_strategy(config)
    if data != "no data provider":
        strategy.dp = DataProvider(config, patched_exchange(config) if data == "mocked exchange" else None)
    strategy.freqai_info = config["freqai"]
    freqai = strategy.freqai
    freqai.live = live
    freqai.dk = FreqaiDataKitchen(config)
    freqai.dk.live = live
    freqai.dk.set_paths("ADA/BTC", 10000)
    freqai.dd.load_all_pair_histories(TimeRange.parse_timerange("20240901-20240906"), freqai.dk)
    return strategy, freqai


@pytest.mark.parametrize(
    ("data", "tensorboard"),
    [
        ("mocked exchange", True),
        ("no data provider", False),
        *(
            pytest.param(*other, marks=pytest.mark.acceptance)
            for other in (
                ("mocked exchange", False),
                ("no exchange", True),
                ("no exchange", False),
                ("no data provider", True),
            )
        ),
    ],
)
def test_a_model_is_trained_by_the_training_hook_alone(
    freqai_conf: dict[str, Any], data: str, tensorboard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As test_extract_data_and_train_model_Standard."""
    strategy, freqai = loaded(freqai_conf, live=True, data=data)
    freqai.activate_tensorboard = tensorboard
    freqai.can_short = False
    freqai.dd.pair_dict = MagicMock()
    freqai.dk.set_paths("ADA/BTC", None)
    freqai.train_timer("start", "ADA/BTC")
    with caplog.at_level(logging.WARNING, "mtfscalper"):
        freqai.extract_data_and_train_model(
            TimeRange.parse_timerange("20240903-20240905"),
            "ADA/BTC",
            strategy,
            freqai.dk,
            TimeRange.parse_timerange("20240902-20240905"),
        )
    freqai.train_timer("stop", "ADA/BTC")
    freqai.dd.save_metric_tracker_to_disk()
    freqai.dd.save_drawer_to_disk()
    assert (freqai.dk.full_path / "metric_tracker.json").is_file()
    assert (freqai.dk.full_path / "pair_dictionary.json").is_file()
    for end in ("model.zip", "metadata.json", "trained_df.pkl"):
        assert (freqai.dk.data_path / f"{freqai.dk.model_filename}_{end}").is_file()
    assert (freqai.dk.full_path / "tensorboard" / "ADA_BTC").is_dir() == tensorboard
    assert ("There is no exchange to ask" in caplog.text) == (data != "mocked exchange")
    assert "ADA/BTC: nobody names a fee; training takes 0.0015 a side." in caplog.text
    # One warning for the one training.
    assert caplog.text.count("ADA/BTC: little can be said of what was trained:") == 1


@pytest.mark.parametrize(
    ("data", "days", "n_folders"),
    # Models of each period, and the predictions.
    [("mocked exchange", 10, 2), ("no exchange", 10, 2), ("mocked exchange", 0.5, 5)],
)
def test_a_backtest_is_made_by_the_backtesting_hook_alone(
    freqai_conf: dict[str, Any], data: str, days: float, n_folders: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As test_start_backtesting and test_start_backtesting_subdaily_backtest_period."""
    freqai_conf["freqai"].update({"save_backtest_models": True, "backtest_period_days": days})
    freqai_conf["runmode"] = RunMode.BACKTEST
    Trade.use_db = False
    strategy, freqai = loaded(freqai_conf, live=False, data=data)
    _, frames = freqai.dd.get_base_and_corr_dataframes(
        TimeRange.parse_timerange("20240901-20240906"), "LTC/BTC", freqai.dk
    )
    frame = frames["5m"]
    freqai.dk.set_paths("LTC/BTC", None)
    kitchen = freqai.dk
    with caplog.at_level(logging.WARNING, "mtfscalper"):
        done = freqai.start_backtesting(frame, {"pair": "LTC/BTC"}, kitchen, strategy)
    assert len([path for path in freqai.dd.full_path.iterdir() if path.is_dir()]) == n_folders
    # Both kitchens hold what was decided: the one that came back, and the caller's.
    for one in (done, kitchen):
        decided = one.return_dataframe[ACTION_COLUMN]
        assert len(decided) == len(frame)
        assert np.count_nonzero(decided) > 0
    # One warning for all trainings of the pair.
    assert caplog.text.count("LTC/BTC: little can be said of what was trained:") == 1
    Trade.use_db = True

    # As test_start_backtesting_from_existing_folder.
    strategy, freqai = loaded(freqai_conf, live=False, data=data)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = freqai.start_backtesting(frame, {"pair": "LTC/BTC"}, freqai.dk, strategy)
    assert "Found backtesting prediction file" in caplog.text
    pd.testing.assert_series_equal(again.return_dataframe[ACTION_COLUMN], done.return_dataframe[ACTION_COLUMN])


def test_another_strategy_is_learned_from_once_it_is_given(freqai_conf: dict[str, Any]) -> None:
    strategy, freqai = loaded(freqai_conf, live=False)
    _, frames = freqai.dd.get_base_and_corr_dataframes(
        TimeRange.parse_timerange("20240901-20240906"), "LTC/BTC", freqai.dk
    )
    # Loading a strategy writes its values into the config.
    of_other = {key: value for key, value in freqai_conf.items() if key != "stoploss"} | {
        "strategy": "OtherSpotStrategy"
    }
    other = StrategyResolver.load_strategy(of_other)
    other.dp = strategy.dp
    for given, stoploss in ((strategy, 0.05), (other, 0.2)):
        freqai.start_backtesting(frames["5m"], {"pair": "LTC/BTC"}, FreqaiDataKitchen(freqai_conf), given)
        assert freqai.traded.strategy is given
        assert freqai.traded.terms.rules("LTC/BTC").stoploss_ratio == stoploss


def test_a_training_of_no_strategy_is_refused_with_the_hooks_that_give_one(freqai_conf: dict[str, Any]) -> None:
    _, freqai = loaded(freqai_conf, live=True)
    with pytest.raises(OperationalException, match=r"No strategy is known yet .*; accepted: .*; remedy: call one"):
        freqai.train(pd.DataFrame(), "ADA/BTC", freqai.dk)


@pytest.mark.parametrize("with_exchange", [True, False])
def test_the_state_of_a_pair_can_be_asked_for(
    freqai_conf: dict[str, Any], with_exchange: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As test_get_state_info."""
    strategy, freqai = loaded(freqai_conf, live=True)
    trade = MagicMock(pair="ADA/BTC", is_short=False)
    if not with_exchange:
        strategy.dp._exchange = None
    else:
        strategy.dp._exchange.get_rate = MagicMock(return_value=1.0)
    freqai.data_provider = strategy.dp
    trade.open_date_utc.timestamp.return_value = 0.0
    Trade.use_db = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trade, "get_trades_proxy", staticmethod(lambda **_: [trade]))
        side, _, _ = freqai.get_state_info("ADA/BTC")
    Trade.use_db = True
    assert side == (1 if with_exchange else 0)
    assert ("No exchange available" in caplog.text) != with_exchange
