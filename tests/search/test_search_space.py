"""The section that says what a study searches: what it may hold, and what becomes of a trial's values."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import optuna
import pytest
from freqtrade.config_schema import CONF_SCHEMA
from freqtrade.misc import deep_merge_dicts
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import DecimalParameter
from shipped import STRATEGIES

from mtfscalper.freqai.strategy_parameters import parameter_complaint, parameters_of
from mtfscalper.search.errors import StudyError
from mtfscalper.search.space import SearchSpace
from mtfscalper.settings import Settings

ROOT = Path(__file__).parents[2]
FLOAT = {"type": "float", "low": 0.1, "high": 0.5}


def space_of(**entries: Any) -> SearchSpace:
    return SearchSpace.from_json(entries)


def complaints(space: SearchSpace, **rl: Any) -> list[str]:
    parameters = {"exit_probability_min": DecimalParameter(0.2, 0.95, default=0.5, space="sell")}
    return list(space.complaints({"freqai": {"rl_config": rl}}, parameters))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (0.1, '"type": "float", "int" or "categorical"'),
        ({"type": "real", "low": 0, "high": 1}, '"type": "float", "int" or "categorical"'),
        ({"type": "float", "low": 0.1}, "'high' is missing"),
        ({"type": "float", "low": 0.1, "hihg": 1}, "did you mean 'high'?"),
        ({"type": "float", "low": 0.5, "high": 0.1}, "low 0.5 is above high 0.1"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "low > 0"),
        ({"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1}, "one of the two"),
        ({"type": "float", "low": 0.0, "high": 1.0, "step": 0.3}, "does not lead from low 0.0 to high 1.0"),
        ({"type": "float", "low": "0", "high": 1}, "finite numbers"),
        ({"type": "int", "low": 1, "high": 2.5}, "whole numbers"),
        ({"type": "int", "low": True, "high": 2}, "whole numbers"),
        ({"type": "categorical", "choices": []}, "different values"),
        ({"type": "categorical", "choices": [[8], [8]]}, "different values"),
        ({"type": "categorical", "choices": 3}, "a list of different values"),
    ],
)
def test_an_entry_that_is_wrong_is_refused_by_its_key(entry: Any, told: str) -> None:
    with pytest.raises(StudyError) as refused:
        space_of(learning_rate=entry)
    assert "freqai.rl_config.search_space.learning_rate is " in str(refused.value)
    assert told in str(refused.value)


def test_all_wrong_entries_are_told_at_once_and_null_takes_one_out() -> None:
    with pytest.raises(StudyError) as refused:
        space_of(a=1, b=2)
    assert len(str(refused.value).splitlines()) == 2
    assert list(space_of(gamma=FLOAT, clip_range=None).searched) == ["gamma"]


def test_a_config_without_a_space_says_where_one_is() -> None:
    with pytest.raises(StudyError, match=r"--config configs/search_space.json"):
        SearchSpace.from_config({"freqai": {"rl_config": {}}})


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("learning_rat", "did you mean 'learning_rate'?"),
        ("reward.drawdown", "did you mean 'reward.drawdown_weight'?"),
        ("strategy.exit_probability", "did you mean 'strategy.exit_probability_min'?"),
        ("conv_width", "its name is freqai.conv_width"),
        ("freqai.backtest_period_days", "nothing reads"),
        ("seed", "the study's own"),
        ("workers", "changes nothing that a trial is judged by"),
        ("model_type", "begin a study for each algorithm"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_the_nearest_one(key: str, told: str) -> None:
    [complaint] = complaints(space_of(**{key: FLOAT}))
    assert f"search_space.{key} " in complaint
    assert told in complaint


def test_keys_that_are_read_are_accepted() -> None:
    keys = ("learning_rate", "net_arch", "ensemble", "reward.equity_weight", "freqai.train_period_days")
    space = space_of(**dict.fromkeys((*keys, "strategy.exit_probability_min", "reward.terms.mine:calm"), FLOAT))
    assert complaints(space) == []


def test_an_argument_of_ppo_is_refused_beside_another_algorithm() -> None:
    [complaint] = complaints(space_of(clip_range=FLOAT), model_type="DQN")
    assert "an argument of PPO, and freqai.rl_config.model_type is 'DQN'" in complaint


def test_values_stand_in_the_config_where_each_key_is_read() -> None:
    keys = ("gamma", "reward.rr", "reward.terms.a.b:calm", "freqai.conv_width", "strategy.rsi_low")
    overlay = space_of(**dict.fromkeys(keys, FLOAT)).overlay(dict(zip(keys, range(5), strict=True)))
    assert overlay == {
        "freqai": {
            "rl_config": {"gamma": 0, "model_reward_parameters": {"rr": 1, "terms": {"a.b:calm": 2}}},
            "conv_width": 3,
        },
        "strategy_parameters": {"rsi_low": 4},
    }


def test_a_value_that_is_also_freqtrades_default_counts_as_written() -> None:
    filled = CONF_SCHEMA["definitions"]["freqai"]["properties"]["rl_config"]["properties"]["net_arch"]["default"]
    choice = {"type": "categorical", "choices": [filled]}
    written = {"freqai": {"rl_config": {}}}
    config = {"freqai": {"rl_config": {"net_arch": filled}}, "original_config": written}
    applied = space_of(net_arch=choice).apply(config, {"net_arch": filled})
    assert applied["original_config"]["freqai"]["rl_config"] == {"net_arch": filled}
    # The config that was given is left as it is.
    assert written == {"freqai": {"rl_config": {}}}


def test_optuna_draws_what_the_space_holds_and_lists_come_back_as_lists() -> None:
    space = space_of(
        gamma=FLOAT,
        n_epochs={"type": "int", "low": 2, "high": 8, "step": 3},
        net_arch={"type": "categorical", "choices": [[8], [16, 16]]},
        fallback={"type": "categorical", "choices": [None, "classic"]},
    )
    study = optuna.create_study()
    drawn = []
    for _ in range(20):
        trial = study.ask()
        values = space.suggest(trial)
        assert space.values(trial.params) == values
        assert space.stored(values) == trial.params
        drawn.append(values)
    assert {json.dumps(values["net_arch"]) for values in drawn} == {"[8]", "[16, 16]"}
    assert {values["n_epochs"] for values in drawn} == {2, 5, 8}
    assert {values["fallback"] for values in drawn} == {None, "classic"}
    assert all(0.1 <= values["gamma"] <= 0.5 for values in drawn)
    assert SearchSpace.from_json(json.loads(json.dumps(space.as_json()))) == space


def test_all_of_the_space_that_ships_is_read_and_can_be() -> None:
    def read(name: str) -> dict[str, Any]:
        return json.loads((ROOT / "configs" / name).read_text())

    config = deep_merge_dicts(read("search_space.json"), read("config_rl_hybrid.json"))
    config |= {"strategy": "MtfScalper_RL_Hybrid", "strategy_path": str(STRATEGIES)}
    config["user_data_dir"] = ROOT / "user_data"
    strategy = StrategyResolver.load_strategy(deepcopy(config) | {"freqai": {"enabled": False}})
    space = SearchSpace.from_config(config)
    assert list(space.complaints(config, parameters_of(strategy))) == []
    for key, of in space.searched.items():
        for value in of.extremes:
            if key.startswith("strategy."):
                name = key.removeprefix("strategy.")
                assert parameter_complaint(name, value, parameters_of(strategy)) is None
            else:
                Settings.from_config(space.apply(config, {key: value}))
