"""What a backtest's policies are made from, as hashes by name: two that are alike were made from the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pandas as pd
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper import artefacts
from mtfscalper.freqai.strategy_rules import UserParts
from mtfscalper.settings import Settings
from mtfscalper.trading.rules import TradingRules

# freqtrade's methods whose code decides what features are.
_FEATURE_METHODS = (
    "feature_engineering_expand_all",
    "feature_engineering_expand_basic",
    "feature_engineering_standard",
    "set_freqai_targets",
)


def run_fingerprint(
    code: str,
    settings: Settings,
    user: UserParts,
    rules: TradingRules,
    freqai: Mapping[str, Any],
    strategy: IStrategy,
) -> dict[str, str]:
    """What every policy of a backtest is made from, name to hash; candles, signals and dates are each period's own.

    :param code: hash of the package's code
    :param user: the user's own code
    :param freqai: the section ``freqai`` of the config
    """
    # Whatever changes nothing about the policy: how progress is shown, how it is asked for decisions, what is admitted.
    shown: Any = {"rl": {"progress_bar", "decision_mode", "trust_models"}, "tensorboard": True, "ppo": {"verbose"}}
    features = [freqai["feature_parameters"], freqai["data_split_parameters"], feature_sources(type(strategy))]
    return {
        "versions": artefacts.value_hash(artefacts.library_versions()),
        "code": code,
        "settings": artefacts.value_hash(settings.model_dump(exclude=shown)),
        "your own code": artefacts.value_hash([(code.name, code.source_sha256) for code in user.codes]),
        "rules": artefacts.value_hash(asdict(rules)),
        "features": artefacts.value_hash(features),
        "strategy parameters": artefacts.value_hash(entry_parameters(strategy)),
    }


def feature_sources(strategy: type[Any]) -> list[str]:
    """The code that may decide what features are, parents and helpers included.

    :param strategy: the class of a strategy
    :return: sources of the feature methods, of whatever a strategy adds to freqtrade's methods, and of the functions
        beside it in its file; not of freqtrade's other methods, such as ``custom_exit``
    """
    sources = []
    for kind in strategy.__mro__:
        if kind.__module__.partition(".")[0] in ("freqtrade", "abc", "builtins"):
            continue
        beside: dict[str, Any] = {}
        for name, value in sorted(vars(kind).items()):
            function = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", None) or value)
            if not inspect.isfunction(function):
                continue
            beside |= function.__globals__
            if name in _FEATURE_METHODS or not hasattr(IStrategy, name):
                sources.append(inspect.getsource(function))
        sources += [
            inspect.getsource(value)
            for _, value in sorted(beside.items())
            if inspect.isfunction(value) and value.__globals__.get("__file__") == beside.get("__file__")
        ]
    return sources


def entry_parameters(strategy: IStrategy) -> dict[str, Any]:
    """Values of the hyperopt parameters that features and signals may depend on: all but those of exits."""
    return {name: parameter.value for name, parameter in strategy.enumerate_parameters() if parameter.space != "sell"}


def rows_hash(frames: list[DataFrame], start: datetime, stop: datetime) -> str:
    """A hash of the rows of [start, stop), whatever the unit that their dates are stored in."""
    hashes = []
    for frame in frames:
        rows = frame[(frame["date"] >= start) & (frame["date"] < stop)]
        rows = rows.assign(date=rows["date"].dt.as_unit("ms"))
        hashes.append([len(rows), int(pd.util.hash_pandas_object(rows, index=False).sum())])
    return artefacts.value_hash(hashes)
