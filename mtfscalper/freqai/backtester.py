"""freqtrade's backtester in this process, with this package's FreqAI model: its config, its candles, its strategy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from freqtrade.commands.arguments import Arguments
from freqtrade.commands.optimize_commands import setup_optimize_configuration
from freqtrade.configuration import TimeRange
from freqtrade.enums import RunMode
from freqtrade.exceptions import ConfigurationError, OperationalException
from freqtrade.exchange import Exchange
from freqtrade.loggers import setup_logging_pre
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.system import set_mp_start_method
from pandas import DataFrame

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class LoadedBacktester(NamedTuple):
    """freqtrade's backtester, with its candles.

    :ivar candles: by pair, with those of the trainings before the timerange
    :ivar timerange: of the run
    """

    backtesting: Backtesting
    candles: dict[str, DataFrame]
    timerange: TimeRange


def parsed_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Arguments of ``freqtrade backtesting`` by their names, those that freqtrade fills in among them."""
    parsed: dict[str, Any] = Arguments(["backtesting", *arguments]).get_parsed_arg()
    return parsed


def backtest_config(arguments: Sequence[str]) -> dict[str, Any]:
    """freqtrade's config for a backtest with FreqAI.

    :param arguments: of ``freqtrade backtesting``
    :raises OperationalException: if it is none
    """
    return config_of_parsed(parsed_arguments(arguments))


def config_of_parsed(parsed: dict[str, Any]) -> dict[str, Any]:
    """The same of arguments by their names.

    :param parsed: see :func:`parsed_arguments`
    :raises OperationalException: if it is none
    """
    setup_logging_pre()
    set_mp_start_method()  # type: ignore[no-untyped-call]
    try:
        config: dict[str, Any] = setup_optimize_configuration(parsed, RunMode.BACKTEST)
    except ConfigurationError as error:
        raise ConfigurationError(_with_key(error)) from error
    if not config.get("freqai", {}).get("enabled", False):
        raise OperationalException(
            "freqai.enabled is not true, so that there is nothing to train; accepted: a config with a section freqai; "
            "remedy: name it with --config"
        )
    return config


def _with_key(error: ConfigurationError) -> str:
    """What freqtrade says of a config; where its schema refuses a value, with the key, which freqtrade leaves out."""
    # jsonschema's, in whose place freqtrade raises its own.
    refused: Any = error.__context__
    if not getattr(refused, "absolute_path", None):
        return str(error)
    key, value = ".".join(map(str, refused.absolute_path)), json.dumps(refused.instance, default=str)
    return (
        f"{key} is {value}, and freqtrade refuses that ({refused.message}); accepted: {refused.validator} "
        f"{json.dumps(refused.validator_value, default=str)}; remedy: correct or remove it"
    )


@contextmanager
def loaded_backtester(
    config: dict[str, Any], exchange: Exchange | None = None, *, quiet: bool = False
) -> Iterator[LoadedBacktester]:
    """freqtrade's backtester with its candles, for as long as a ``with`` block lasts.

    :param exchange: None lets freqtrade connect to the config's
    :param quiet: whether freqtrade shows no progress
    """
    with ExitStack() as resources:
        resources.callback(Backtesting.cleanup)
        callback = {"progress_callback": lambda _: None} if quiet else {}
        backtesting = Backtesting(config, exchange, **callback)
        if exchange is None:
            # freqtrade's command ends there. Here its connections would stay open, and complain as they are collected.
            resources.callback(backtesting.exchange.close)
        yield LoadedBacktester(backtesting, *backtesting.load_bt_data())


def checked_model(backtesting: Backtesting, strategy: Any) -> MtfScalperFreqaiModel:
    """Let a strategy be the one that is backtested.

    :return: its FreqAI model
    :raises OperationalException: if that is none of this package's
    """
    backtesting._set_strategy(strategy)
    model = strategy.freqai
    if not isinstance(model, MtfScalperFreqaiModel):
        raise OperationalException(
            f"--freqaimodel is {type(model).__name__}, which plans no trainings; accepted: MtfScalperRLModel, or a "
            "model of your own that inherits from MtfScalperFreqaiModel; remedy: name it"
        )
    return model
