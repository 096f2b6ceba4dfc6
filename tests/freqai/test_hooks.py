"""Hooks: those declared live are called, and a model that overrides another one stops at its start."""

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR, ROOT, FreqtradeBacktest, Watch
from freqtrade.enums import CandleType
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.prediction_models.ReinforcementLearner import ReinforcementLearner
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from live_bot import LENGTHS, LiveBot

from mtfscalper.freqai import model as model_module
from mtfscalper.freqai.hooks import _INSTEAD, LIVE_HOOKS, check_hooks, dead_hooks
from mtfscalper.freqai.model import MtfScalperFreqaiModel
from mtfscalper.training.job import TrainingJob

Model = MtfScalperFreqaiModel


def refusal(model: type) -> str:
    with pytest.raises(OperationalException) as refused:
        check_hooks(model, Model)
    message = str(refused.value)
    assert "; accepted: the hooks that are called, which are train, fit, predict, " in message
    assert "; remedy: remove " in message
    return message


def overriding(*names: str, bases: tuple[type, ...] = (Model,)) -> type:
    return type("Mine", bases, dict.fromkeys(names, lambda self, *arguments: None))


# ---------------------------------------------------------------------- the lists


def test_live_hooks_are_freqais_and_stand_once() -> None:
    assert len(set(LIVE_HOOKS)) == len(LIVE_HOOKS)
    assert all(hasattr(BaseReinforcementLearningModel, name) for name in LIVE_HOOKS)


def test_the_hooks_that_freqtrades_users_override_are_among_the_dead() -> None:
    assert dead_hooks() >= {
        *("set_train_and_eval_environments", "rl_model_predict", "pack_env_dict", "build_ohlc_price_dataframes"),
        *("get_state_info", "calculate_reward", "drop_ohlc_from_df", "load_model_from_disk"),
        *("data_cleaning_train", "data_cleaning_predict", "define_label_pipeline", "get_init_model"),
    }
    assert set(_INSTEAD) <= dead_hooks()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Fills with the live hooks as they are called, as a subclass's would be; dead ones fail."""
    names: set[str] = set()
    original = {name: getattr(Model, name) for name in LIVE_HOOKS}

    def recording(name: str) -> Callable[..., Any]:
        def record(self: Any, *arguments: Any, **keywords: Any) -> Any:
            names.add(name)
            return original[name](self, *arguments, **keywords)

        return record

    def failing(name: str) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise AssertionError(f"{name} is called, and counts as dead")

        return fail

    for name in LIVE_HOOKS:
        monkeypatch.setattr(Model, name, recording(name))
    for name in dead_hooks() & set(dir(BaseReinforcementLearningModel)):
        monkeypatch.setattr(Model, name, failing(name))
    monkeypatch.setattr(model_module, "check_hooks", lambda *_: None)
    return names


def test_every_live_hook_is_called_and_no_dead_one(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, called: set[str]
) -> None:
    (tmp_path / "backtest").mkdir()
    (tmp_path / "bot").mkdir()
    Watch(monkeypatch)
    of_backtest = {"freqai": {"fit_live_predictions_candles": 860}}
    FreqtradeBacktest(tmp_path / "backtest", market, **of_backtest).run()
    # Again, from what is on disk.
    again = FreqtradeBacktest(tmp_path / "backtest", market, **of_backtest)
    again.run()
    # From what a bot predicted.
    model, strategy = again.strategy.freqai, again.strategy
    monkeypatch.setitem(model.config, "freqai_backtest_live_models", True)
    model.dd.historic_predictions[PAIR] = pd.DataFrame(
        {"date_pred": again.frame["date"], "&-action": 0.0, "do_predict": 1}
    )
    model.start(again.candles[PAIR].copy(), {"pair": PAIR}, strategy)

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as failing:
        failing.setattr(TrainingJob, "run", fail)
        broken = FreqtradeBacktest(tmp_path / "backtest", market, freqai={"conv_width": 2})
        with pytest.raises(OperationalException, match="out of luck"):
            broken.run()

    bot = LiveBot(
        tmp_path / "bot", market, monkeypatch, freqai={"feature_parameters": {"include_corr_pairlist": [OTHER_PAIR]}}
    )
    for timeframe in LENGTHS:
        candles = pd.read_feather(market / "futures" / f"ETH_USDT_USDT-{timeframe}-futures.feather")
        bot.exchange._klines[(OTHER_PAIR, timeframe, CandleType.FUTURES)] = candles[candles["date"] < bot.now]
    bot.model.scanning = False
    try:
        with bot.clock():
            bot.analyse()
            patience = time.monotonic() + 120
            while PAIR not in bot.model.dd.model_dictionary and time.monotonic() < patience:
                time.sleep(0.1)
            bot.analyse()
        bot.next_candle()
        bot.analyse()
    finally:
        bot.strategy.ft_bot_cleanup()
    assert not [thread for thread in threading.enumerate() if "_start_scanning" in thread.name]
    assert called == set(LIVE_HOOKS)


def test_the_docstring_of_the_users_model_lists_the_live_hooks() -> None:
    text = (ROOT / "user_data" / "freqaimodels" / "MtfScalperRLModel.py").read_text(encoding="utf-8")
    named = set(re.findall(r"``(\w+)``", text))
    assert named >= set(LIVE_HOOKS)
    assert not named & (dead_hooks() - {"calculate_reward"})


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", sorted(dead_hooks()))
def test_overriding_a_hook_without_effect_is_refused_by_name(name: str) -> None:
    message = refusal(overriding(name))
    assert message.startswith(f"Mine overrides {name}, which nothing calls here")
    assert _INSTEAD.get(name, "") in message


@pytest.mark.parametrize("name", LIVE_HOOKS)
def test_overriding_a_live_hook_is_accepted(name: str) -> None:
    check_hooks(overriding(name), Model)


def test_a_models_own_methods_and_the_shipped_model_are_accepted() -> None:
    check_hooks(overriding("my_own", "_my_other", "step", "reset", "__repr__"), Model)
    check_hooks(Model, Model)


def test_several_are_named_at_once_with_what_does_it_here() -> None:
    message = refusal(overriding("pack_env_dict", "rl_model_predict", "fit"))
    assert message.startswith("Mine overrides pack_env_dict, rl_model_predict, which nothing calls here")
    assert "remedy: remove them; training runs on environments that trade by freqtrade's rules" in message
    assert message.endswith("; predict decides on all rows of a frame at once")


def test_a_reward_outside_of_an_environment_is_refused_with_the_places_where_one_is_asked() -> None:
    message = refusal(overriding("calculate_reward"))
    assert message.startswith("Mine overrides calculate_reward, which nothing calls here")
    assert "calculate_reward of a nested class MyRLEnv(Base5ActionRLEnv)" in message
    assert "terms and their weights in freqai.rl_config.model_reward_parameters" in message


def test_an_environment_of_ones_own_is_accepted() -> None:
    class OwnReward(Model):
        class MyRLEnv(Base5ActionRLEnv):
            def calculate_reward(self, action: int) -> float:
                return 1.0

    check_hooks(OwnReward, Model)


def test_hooks_of_a_parent_and_of_a_mixin_count() -> None:
    parent = overriding("get_state_info")
    assert refusal(type("Child", (parent,), {})).startswith("Child overrides get_state_info")
    mixin = overriding("pack_env_dict", bases=(object,))
    assert refusal(type("Mixed", (mixin, Model), {})).startswith("Mixed overrides pack_env_dict")


@pytest.mark.parametrize("bases", [(Model, ReinforcementLearner), (ReinforcementLearner, Model)])
def test_a_stock_learner_before_or_behind_this_model_is_refused(bases: tuple[type, ...]) -> None:
    with pytest.raises(OperationalException) as refused:
        check_hooks(type("Both", bases, {}), Model)
    message = str(refused.value)
    assert message.startswith("Both inherits from ReinforcementLearner of freqtrade beside MtfScalperFreqaiModel, and ")
    assert "remedy: take ReinforcementLearner out of its bases" in message
    assert "nested class MyRLEnv" in message


def test_a_hook_that_a_models_own_code_calls_has_an_effect() -> None:
    class Own(Model):
        def predict(self, unfiltered_df: Any, dk: Any, **kwargs: Any) -> Any:
            return self.rl_model_predict(unfiltered_df, dk, self.model), None

        def rl_model_predict(self, dataframe: Any, dk: Any, model: Any) -> Any:
            return [self.get_state_info(pair) for pair in dataframe]

        def get_state_info(self, pair: str) -> Any:
            return pair

    check_hooks(Own, Model)

    class Alone(Model):
        def set_train_and_eval_environments(self, *arguments: Any) -> Any:
            return self.pack_env_dict("BTC/USDT")

        def pack_env_dict(self, pair: str) -> dict[str, Any]:
            return super().pack_env_dict(pair)

    # They call each other, and nobody calls them.
    assert refusal(Alone).startswith("Alone overrides pack_env_dict, set_train_and_eval_environments, which")


def test_a_backtest_stops_at_the_start_of_the_model(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(monkeypatch)
    models = tmp_path / "models_of_mine"
    models.mkdir()
    (models / "MtfScalperRLModel.py").write_text(
        "from mtfscalper.freqai.model import MtfScalperFreqaiModel\n\n\n"
        "class MtfScalperRLModel(MtfScalperFreqaiModel):\n"
        "    def pack_env_dict(self, pair):\n"
        "        return {}\n"
    )
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(OperationalException, match="MtfScalperRLModel overrides pack_env_dict"),
    ):
        FreqtradeBacktest(tmp_path, market, model_path=models)
    assert watch.trained == []


class _FitsAsFreqai(Model):
    def fit(self, data_dictionary: Any, dk: Any, **kwargs: Any) -> Any:
        return [self.train_env for _ in range(2)]


class _MakesItsOwn(Model):
    def fit(self, data_dictionary: Any, dk: Any, **kwargs: Any) -> Any:
        self.train_env = object()
        return [self.train_env for _ in range(2)]


def test_a_fit_on_environments_that_nobody_makes_is_refused() -> None:
    with pytest.raises(OperationalException, match=r"^_FitsAsFreqai reads self\.train_env, which FreqAI fills") as told:
        check_hooks(_FitsAsFreqai, Model)
    assert "; accepted: a fit that calls super().fit" in str(told.value)
    assert "; remedy: " in str(told.value)
    check_hooks(_MakesItsOwn, Model)
