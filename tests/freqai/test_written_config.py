"""The defaults in force are this package's, not those that freqtrade's schema fills in."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import freqai_runs
import pytest
from freqai_runs import IDENTIFIER, FreqtradeBacktest, Watch, configuration
from freqtrade.configuration.config_validation import validate_config_schema
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from test_start_checks import FREQAI

from mtfscalper.freqai.strategy_rules import settings_of_config
from mtfscalper.freqai.written_config import as_written, config_in_force
from mtfscalper.settings import Settings

BARE: dict[str, Any] = {
    "exchange": {"name": "binance"},
    "stake_currency": "USDT",
    "stake_amount": 100,
    "dry_run": True,
    "dry_run_wallet": 1000,
    "pairlists": [{"method": "StaticPairList"}],
    "timeframe": "5m",
    "freqai": {**FREQAI, "enabled": True, "identifier": IDENTIFIER, "rl_config": {}, "data_split_parameters": {}},
}


def loaded(**freqai: Any) -> dict[str, Any]:
    """A config as freqtrade hands it on: what was written beside what its schema has filled in."""
    written = deepcopy(BARE)
    written["freqai"] |= freqai
    config = {**deepcopy(written), "original_config": written, "runmode": RunMode.BACKTEST}
    return validate_config_schema(config, preliminary=True)


def test_whatever_the_schema_fills_in_the_defaults_are_those_of_the_settings() -> None:
    config = loaded()
    # The schema has been at work.
    assert config["freqai"]["rl_config"]["net_arch"] == [128, 128]
    assert Settings.from_config(config) != Settings.from_config({})
    assert settings_of_config(config) == Settings.from_config({})
    assert settings_of_config(loaded(rl_config={"model_reward_parameters": {}})) == Settings.from_config({})


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_training_drawdown_pct", 0.02), ("cpu_count", 1), ("net_arch", [128, 128]), ("progress_bar", True)],
)
def test_a_value_that_was_written_counts_even_where_it_is_the_schemas(key: str, value: Any) -> None:
    settings = settings_of_config(loaded(rl_config={key: value}))
    assert getattr(settings.rl, key) == (tuple(value) if isinstance(value, list) else value)
    assert settings_of_config(loaded(save_backtest_models=False)).save_backtest_models is False


def test_a_value_put_in_after_loading_counts() -> None:
    config = loaded()
    config["freqai"]["rl_config"]["cpu_count"] = 2
    assert settings_of_config(config).rl.cpu_count == 2


def test_without_a_copy_of_what_was_written_every_value_counts() -> None:
    config = loaded()
    del config["original_config"]
    assert settings_of_config(config).rl.net_arch == (128, 128)
    assert as_written(config) == config
    assert as_written({}) == {}


def test_an_environment_variable_is_written_too(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQTRADE__FREQAI__RL_CONFIG__MAX_TRAINING_DRAWDOWN_PCT", "0.02")
    config, _ = configuration(tmp_path, market)
    assert config["original_config"]["freqai"]["rl_config"]["max_training_drawdown_pct"] == 0.02
    assert settings_of_config(config).rl.max_training_drawdown_pct == 0.02


def test_reading_a_config_changes_nothing_of_it() -> None:
    config = loaded()
    before = deepcopy(config)
    config_in_force(config, settings_of_config(config))
    assert config == before


def test_freqai_is_given_what_is_in_force() -> None:
    config = loaded()
    del config["freqai"]["rl_config"]
    freqai = config_in_force(config, settings_of_config(config))["freqai"]
    assert freqai["save_backtest_models"] is True
    # Left out, scikit-learn would hold out a quarter.
    assert freqai["data_split_parameters"] == {"test_size": 0.1, "shuffle": False}
    assert freqai["rl_config"]["net_arch"] == [512, 512, 256]
    assert freqai["rl_config"]["model_reward_parameters"]["profit_aim"] == 0.025
    # What it says is what it was made from.
    assert Settings.from_config({"freqai": freqai}) == Settings.from_config({})


def test_a_share_to_train_on_is_left_alone() -> None:
    config = loaded(data_split_parameters={"train_size": 0.5})
    split = config_in_force(config, settings_of_config(config))["freqai"]["data_split_parameters"]
    assert split == {"train_size": 0.5, "shuffle": False}


def test_a_missing_training_period_is_refused_because_freqtrade_has_loaded_candles_without() -> None:
    written = deepcopy(BARE)
    del written["freqai"]["train_period_days"]
    config = validate_config_schema(
        {**deepcopy(written), "original_config": written, "runmode": RunMode.BACKTEST}, preliminary=True
    )
    with pytest.raises(OperationalException, match=r"freqai\.train_period_days is missing, and freqtrade loads"):
        settings_of_config(config)


@pytest.mark.parametrize("left_out", ["model_reward_parameters", "rl_config"])
def test_a_backtest_without_a_section_runs_on_its_defaults(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    """FreqAI's base class raises KeyError for either."""
    watch = Watch(monkeypatch)

    def without(*arguments: Any, **overlay: Any) -> Any:
        config, exchange = configuration(*arguments, **overlay)
        # Eight processes of 4096 steps are another test's.
        tiny = {"net_arch": [8], "vec_env": "dummy", "n_envs": 2, "n_steps": 64, "batch_size": 32, "n_epochs": 1}
        for freqai in (config["freqai"], config["original_config"]["freqai"]):
            del freqai["rl_config"]
            freqai["model_training_parameters"] = tiny | {"train_cycles": 1, "progress_bar": False, "device": "cpu"}
            if left_out == "model_reward_parameters":
                freqai["rl_config"] = deepcopy(freqai["model_training_parameters"])
            del freqai["save_backtest_models"]
        return validate_config_schema(config, preliminary=True), exchange

    monkeypatch.setattr(freqai_runs, "configuration", without)
    run = FreqtradeBacktest(tmp_path, market)
    run.run()
    assert len(watch.trained) == 3
    settings = run.strategy.freqai.settings
    assert settings.rl.model_reward_parameters == Settings.from_config({}).rl.model_reward_parameters
    assert (settings.rl.net_arch, settings.rl.max_training_drawdown_pct) == ((8,), 0.5)
    # Kept, as the README says of a missing key.
    recorded = json.loads((run.models / "run_params.json").read_text())["freqai"]
    assert recorded["save_backtest_models"] is True
    assert len(list(run.models.rglob("*_model.zip"))) == 3
