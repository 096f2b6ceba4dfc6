"""A strategy's decision parameters out of the config: ``strategy_parameters``, in the place of hyperopt's file.

freqtrade reads them from a file beside the strategy, which every run of it then obeys. What is written into a config
holds for the runs of that config alone, and an overlay may carry it from a study to a bot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from freqtrade.exceptions import OperationalException
from freqtrade.strategy import BooleanParameter, CategoricalParameter, DecimalParameter, IntParameter, IStrategy
from freqtrade.strategy.parameters import BaseParameter, NumericParameter

from mtfscalper.settings_text import did_you_mean

STRATEGY_PARAMETERS = "strategy_parameters"
# Of a sum of decimal steps, which freqtrade rounds too.
_ROUNDING = 1e-9
# Of a strategy that has been given its config's values.
_TAKES = "_takes_strategy_parameters"


def parameters_of(strategy: IStrategy) -> dict[str, BaseParameter]:
    """The parameters of a strategy that hyperopt could vary, by name."""
    found = {}
    for name in dir(type(strategy)):
        value = getattr(strategy, name, None) if not name.startswith("__") else None
        if isinstance(value, BaseParameter):
            found[name] = value
    return found


def parameter_complaint(name: str, value: Any, parameters: Mapping[str, BaseParameter]) -> str | None:
    """What is wrong with a value for a parameter of a strategy, None where nothing is.

    :param parameters: of the strategy, by name
    """
    where = f"{STRATEGY_PARAMETERS}.{name} is {value!r}"
    if name not in parameters:
        known = sorted(parameters)
        return (
            f"{where}, an unknown parameter of the strategy; accepted: {', '.join(known) or 'none, for it has none'}; "
            f"remedy: {did_you_mean(name, known)}"
        )
    accepted = _accepted(parameters[name])
    if accepted is None or _fits(parameters[name], value):
        return None
    return f"{where}; accepted: {accepted}; remedy: set it so, or remove it for {parameters[name].value!r}"


def check_parameters_are_read(strategy: IStrategy, config: Mapping[str, Any]) -> None:
    """
    :param config: the freqtrade config
    :raises OperationalException: if the config has values for a strategy that does not take them
    """
    values = config.get(STRATEGY_PARAMETERS)
    if values and not getattr(strategy, _TAKES, False):
        raise OperationalException(
            f"{STRATEGY_PARAMETERS} is {values!r}, and {type(strategy).__name__} does not read it; accepted: a "
            "strategy with the mixin, class MyStrategy(PolicyExits, IStrategy); remedy: add it, or remove the key"
        )


def set_parameters(strategy: IStrategy) -> None:
    """Give a strategy's parameters the values of its config.

    :raises OperationalException: with every value that is wrong
    """
    vars(strategy)[_TAKES] = True
    values = strategy.config.get(STRATEGY_PARAMETERS) or {}
    if not isinstance(values, Mapping):
        raise OperationalException(
            f"{STRATEGY_PARAMETERS} is {values!r}; accepted: an object with parameters of the strategy and their values"
        )
    parameters = parameters_of(strategy)
    complaints = [parameter_complaint(str(name), value, parameters) for name, value in values.items()]
    if wrong := [complaint for complaint in complaints if complaint]:
        raise OperationalException("The config cannot be used:\n" + "\n".join(wrong))
    for name, value in values.items():
        parameters[name].value = value


def _accepted(parameter: BaseParameter) -> str | None:
    """The values that a parameter takes, in words; None where that is not known."""
    if isinstance(parameter, BooleanParameter):
        return "true, false"
    if isinstance(parameter, CategoricalParameter):
        return ", ".join(repr(choice) for choice in parameter.opt_range)
    if isinstance(parameter, NumericParameter):
        kind = "integer" if isinstance(parameter, IntParameter) else "number"
        return f"{kind} from {parameter.low} to {parameter.high}"
    return None


def _fits(parameter: BaseParameter, value: Any) -> bool:
    if isinstance(parameter, BooleanParameter):
        return isinstance(value, bool)
    if isinstance(parameter, CategoricalParameter):
        return value in list(parameter.opt_range)
    assert isinstance(parameter, NumericParameter)
    kinds = (int,) if isinstance(parameter, IntParameter) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        return False
    if isinstance(parameter, DecimalParameter) and abs(round(value, parameter.decimals) - value) > _ROUNDING:
        return False
    return bool(parameter.low <= value <= parameter.high)
