"""Parameters of a strategy out of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from freqtrade.enums import RunMode, TradingMode
from freqtrade.exceptions import OperationalException
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import BooleanParameter, CategoricalParameter, DecimalParameter, IntParameter, IStrategy
from shipped import STRATEGIES

from mtfscalper.freqai.strategy_parameters import check_parameters_are_read, parameter_complaint

ROOT = Path(__file__).parents[2]


def strategy(parameters: Any, runmode: RunMode = RunMode.BACKTEST) -> IStrategy:
    config: dict[str, Any] = {
        "strategy": "MtfScalper_RL_Hybrid",
        "strategy_path": str(STRATEGIES),
        "user_data_dir": ROOT / "user_data",
        "trading_mode": TradingMode.FUTURES,
        "runmode": runmode,
        "freqai": {"enabled": False},
    }
    if parameters is not None:
        config["strategy_parameters"] = parameters
    made = StrategyResolver.load_strategy(config)
    made.ft_bot_start()
    return made


def test_a_strategy_takes_the_values_of_its_config() -> None:
    made = strategy({"exit_probability_min": 0.65, "rsi_low": 50})
    assert (made.exit_probability_min.value, made.rsi_low.value) == (0.65, 50)
    # freqtrade's own thresholds follow: nothing read them before.
    assert made._thresholds().rsi_long[0] == 50
    assert strategy(None).exit_probability_min.value == 0.5


def test_they_count_more_than_hyperopts_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = {"params": {"sell": {"exit_probability_min": 0.8, "duration_share": 0.5}}}
    monkeypatch.setattr(IStrategy, "load_params_from_file", lambda self: file)
    made = strategy({"exit_probability_min": 0.65})
    assert (made.exit_probability_min.value, made.duration_share.value) == (0.65, 0.5)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"exit_probability": 0.5}, "did you mean 'exit_probability_min'?"),
        ({"rsi_low": 80}, "accepted: integer from 30 to 55"),
        ({"rsi_low": 40.5}, "accepted: integer from 30 to 55"),
        ({"exit_probability_min": True}, "accepted: number from 0.2 to 0.95"),
        ({"exit_probability_min": 0.123}, "accepted: number from 0.2 to 0.95"),
        ([0.5], "accepted: an object"),
    ],
)
def test_a_wrong_one_is_refused(parameters: Any, told: str) -> None:
    with pytest.raises(OperationalException) as refused:
        strategy(parameters)
    assert "strategy_parameters" in str(refused.value)
    assert told in str(refused.value)


def test_what_each_kind_of_parameter_takes() -> None:
    kinds = {
        "flag": BooleanParameter(default=True, space="buy"),
        "choice": CategoricalParameter(["a", "b"], default="a", space="buy"),
        "whole": IntParameter(1, 5, default=2, space="buy"),
        "decimal": DecimalParameter(0.0, 1.0, default=0.5, decimals=1, space="buy"),
    }
    good: dict[str, Any] = {"flag": False, "choice": "b", "whole": 5, "decimal": 0.1 + 0.2}
    assert [parameter_complaint(name, value, kinds) for name, value in good.items()] == [None] * 4
    bad: dict[str, Any] = {"flag": 1, "choice": "c", "whole": 6, "decimal": 0.25}
    assert all(parameter_complaint(name, value, kinds) for name, value in bad.items())


def test_a_strategy_that_does_not_read_them_is_refused() -> None:
    class Plain(IStrategy):
        timeframe = "5m"

        def populate_indicators(self, dataframe: Any, metadata: Any) -> Any:
            return dataframe

    values = {"strategy_parameters": {"rsi_low": 50}}
    check_parameters_are_read(strategy(values["strategy_parameters"]), values)
    check_parameters_are_read(Plain({}), {})
    with pytest.raises(OperationalException, match=r"Plain does not read it"):
        check_parameters_are_read(Plain({}), values)
