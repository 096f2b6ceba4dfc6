"""The configs of the project: freqtrade accepts them, they say what they mean, and overlays fit the main one."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from freqtrade.configuration.config_validation import validate_config_consistency, validate_config_schema
from freqtrade.configuration.load_config import load_from_files
from freqtrade.enums import RunMode
from freqtrade.resolvers import StrategyResolver
from shipped import STRATEGIES

from mtfscalper.settings import PPOSettings, RLSettings, Settings
from mtfscalper.trading.reward import RewardSettings

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
MAIN = CONFIGS / "config_rl_hybrid.json"
OVERLAYS = sorted(path for path in CONFIGS.glob("*.json") if path != MAIN)
# Alone, then each overlay over the main config, in the order of a command line.
COMBINATIONS = [(MAIN,), *((MAIN, overlay) for overlay in OVERLAYS)]


def names(combination: tuple[Path, ...]) -> str:
    return "+".join(path.stem for path in combination)


def merged(*files: Path) -> dict[str, Any]:
    return load_from_files([str(file) for file in files])


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys), f"a key stands twice among {keys}"
    return dict(pairs)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {name: leaf for key, item in value.items() for name, leaf in leaves(item, f"{path}.{key}").items()}


@pytest.mark.parametrize("path", [MAIN, *OVERLAYS], ids=lambda path: path.stem)
def test_a_config_is_plain_json_without_repeated_keys(path: Path) -> None:
    # freqtrade allows comments and trailing commas; other readers of JSON do not.
    assert json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_repeats)


@pytest.mark.parametrize("runmode", [RunMode.BACKTEST, RunMode.DRY_RUN, RunMode.HYPEROPT])
@pytest.mark.parametrize("combination", COMBINATIONS, ids=names)
def test_freqtrade_accepts_the_main_config_alone_and_with_each_overlay(
    combination: tuple[Path, ...], runmode: RunMode, tmp_path: Path
) -> None:
    config = merged(*combination) | {"runmode": runmode, "user_data_dir": tmp_path, "timerange": "20241001-20241015"}
    config["strategy"] = "MtfScalper_RL_Hybrid"
    config["strategy_path"] = str(STRATEGIES)
    # The strategy completes the config: stop-loss and ROI are its own.
    StrategyResolver.load_strategy(config)
    # It gives the config back, with the defaults of its schema.
    assert validate_config_schema(config)["freqai"]["identifier"] == config["freqai"]["identifier"]
    validate_config_consistency(config)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=names)
def test_settings_accept_the_main_config_alone_and_with_each_overlay(combination: tuple[Path, ...]) -> None:
    asked = merged(*combination)["freqai"]["rl_config"]
    settings = Settings.from_config(merged(*combination))
    assert (settings.rl.vec_env, settings.ppo.n_steps) == (asked["vec_env"], asked["n_steps"])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_changes_something(overlay: Path) -> None:
    before, after = merged(MAIN), merged(MAIN, overlay)
    del before["config_files"], after["config_files"]
    assert before != after


def test_the_main_config_shows_the_defaults() -> None:
    settings = Settings.from_config(merged(MAIN))
    ours, defaults = leaves(settings.model_dump()), leaves(Settings.from_config({}).model_dump())
    different = {key: value for key, value in ours.items() if defaults[key] != value}
    # One per cent of equity is one unit of reward; the strategy beside it asks for its decisions, and FreqAI's schema
    # hides the trade's state unless told otherwise.
    assert different == {
        ".rl.model_reward_parameters.equity_weight": 100.0,
        ".rl.decision_mode": "exact",
        # What "auto" comes to with the strategy beside it.
        ".rl.entry_mode": "gated",
        ".rl.add_state_info": True,
    }


def test_the_main_config_sets_whatever_freqtrade_would_fill_in_otherwise() -> None:
    """freqtrade writes its schema's defaults into every config, such as ``net_arch`` [128, 128]."""
    bare = merged(MAIN)
    wanted = Settings.from_config({})
    bare["freqai"]["rl_config"] = {"model_reward_parameters": {}}
    for key in ("conv_width", "continual_learning", "activate_tensorboard", "save_backtest_models"):
        bare["freqai"].pop(key)
    filled = validate_config_schema(deepcopy(bare) | {"runmode": RunMode.BACKTEST}, preliminary=True)
    got, expected = leaves(Settings.from_config(filled).model_dump()), leaves(wanted.model_dump())
    changed = {key for key in expected if got[key] != expected[key]}
    assert {".rl.net_arch", ".rl.cpu_count", ".rl.max_training_drawdown_pct", ".save_backtest_models"} <= changed

    main = json.loads(MAIN.read_text(encoding="utf-8"))["freqai"]
    for key in changed:
        section, _, name = key[1:].rpartition(".")
        assert name in (main["rl_config"] if section == "rl" else main), f"{key} is {got[key]!r} unless it is set"


def test_the_main_config_holds_no_key_that_nobody_reads() -> None:
    rl = json.loads(MAIN.read_text(encoding="utf-8"))["freqai"]["rl_config"]
    assert set(rl) <= set(RLSettings.model_fields) | set(PPOSettings.model_fields)
    assert set(rl["model_reward_parameters"]) <= set(RewardSettings.model_fields)


def test_the_main_config_makes_the_features_the_strategy_asks_for(tmp_path: Path) -> None:
    config = merged(MAIN) | {"strategy": "MtfScalper_RL_Hybrid", "strategy_path": str(STRATEGIES)}
    config["user_data_dir"] = tmp_path
    strategy: Any = StrategyResolver.load_strategy(config)
    features = config["freqai"]["feature_parameters"]
    assert features["include_timeframes"] == [strategy.timeframe, *strategy.informative_timeframes]
    assert config["timeframe"] == type(strategy).timeframe
    assert not features.get("shuffle_after_split", False)
    assert not config["freqai"]["data_split_parameters"]["shuffle"]


def test_configs_hold_no_credentials_and_trade_nothing_by_themselves() -> None:
    assert merged(MAIN)["dry_run"] is True
    for path in (MAIN, *OVERLAYS):
        exchange = json.loads(path.read_text(encoding="utf-8")).get("exchange", {})
        assert {exchange.get(name, "") for name in ("key", "secret", "password", "uid")} == {""}
        assert "telegram" not in path.read_text(encoding="utf-8")


def test_the_fast_config_updates_from_as_many_samples_as_the_main_one() -> None:
    """More environments, shorter each: what PPO learns from stays as much."""
    main, fast = (Settings.from_config(merged(*files)) for files in ((MAIN,), (MAIN, CONFIGS / "config_rl_fast.json")))
    assert fast.rl.n_envs > main.rl.n_envs
    assert fast.rl.n_envs * fast.ppo.n_steps == main.rl.n_envs * main.ppo.n_steps == 32_768
    assert (fast.rl.vec_env, fast.rl.precision) == ("batched", "auto")
    assert fast.ppo.batch_size == main.ppo.batch_size
    assert fast.ppo.n_epochs == main.ppo.n_epochs
