"""Candles that are not there: missing files, histories too short to trade, and periods that can decide nothing.

A pair that was listed late or delisted early stops nobody else: its periods without enough rows are left out, and
FreqAI fills their columns with zeros (``do_predict`` 0).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import get_datahandler
from freqtrade.enums import TRADE_MODES
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import timeframe_to_seconds

logger = logging.getLogger(__name__)


class History(NamedTuple):
    """The candles of a pair that freqtrade loads for a run.

    :ivar first: opening time of the first one
    :ivar n_candles: freqtrade fills gaps
    """

    pair: str
    first: datetime
    n_candles: int


def check_candles(config: Mapping[str, Any], data: DataProvider) -> None:
    """Refuse a backtest whose candles cannot be enough, before anything is trained.

    A pair without candles of the strategy's timeframe is freqtrade's to leave out. A bot downloads what it needs, and
    a command that only draws knows no list of pairs: nothing is checked for either.

    :param config: the freqtrade config
    :raises OperationalException: naming missing files, or, where no pair would be left, what each pair has
    """
    timerange = TimeRange.parse_timerange(config.get("timerange"))
    is_backtest = data._pairlists is not None and data.runmode not in TRADE_MODES
    # FreqAI refuses ranges with an open end by itself.
    if not is_backtest or not timerange.startts or not timerange.stopts:
        return
    handler = get_datahandler(config["datadir"], config["dataformat_ohlcv"])
    timeframe, kind = config["timeframe"], config["candle_type_def"]
    # freqtrade cuts as many candles off the beginning of every pair, wherever that lies.
    startup = data.get_required_startup(timeframe)
    candle = timeframe_to_seconds(timeframe)
    wanted = timerange.startts - startup * candle
    histories = []
    for pair in data.current_whitelist():
        first, last, n_candles = handler.ohlcv_data_min_max(pair, timeframe, kind)
        begins, ends = max(first.timestamp(), wanted), min(last.timestamp(), timerange.stopts)
        if n_candles and begins <= ends:
            histories.append(History(pair, datetime.fromtimestamp(begins, UTC), int((ends - begins) // candle) + 1))
    parameters = config["freqai"]["feature_parameters"]
    correlated = parameters["include_corr_pairlist"]
    missing = []
    for pair in dict.fromkeys([*(history.pair for history in histories), *correlated]):
        for other in parameters["include_timeframes"]:
            if (other == timeframe and pair not in correlated) or not data.historic_ohlcv(pair, other).empty:
                continue
            path = handler._pair_data_filename(config["datadir"], pair, other, kind)
            state = "holds no candles of these days" if path.is_file() else "is missing"
            missing.append(f"{path} ({pair}, {other}) {state}")
    days = f"{datetime.fromtimestamp(wanted, UTC):%Y%m%d}-{datetime.fromtimestamp(timerange.stopts, UTC):%Y%m%d}"
    download = "freqtrade download-data --config <your config> "
    if missing:
        raise OperationalException(
            f"{'; '.join(missing)}; accepted: candles of every timeframe in feature_parameters.include_timeframes, for "
            f"every pair traded and every one in include_corr_pairlist; remedy: {download}--timeframes "
            f"{' '.join(parameters['include_timeframes'])} --timerange {days}"
        )
    short = [history for history in histories if history.n_candles <= startup]
    if short:
        listed = ", ".join(f"{history.pair} from {history.first:%Y-%m-%d %H:%M}" for history in short)
        too_few = (
            f"{listed}: freqtrade cuts the first {startup} candles of {timeframe} off every pair "
            f"(train_period_days {config['freqai']['train_period_days']} and startup_candle_count), which leaves none"
        )
        remedy = f"{download}--timeframes {timeframe} --timerange {days}, or begin --timerange later"
        if len(short) == len(histories):
            raise OperationalException(f"Too little history: {too_few}; accepted: candles of {days}; remedy: {remedy}")
        logger.warning("%s; they are not traded. Remedy, where there are such candles: %s.", too_few, remedy)


def periods_without_rows(
    dates: pd.Series[pd.Timestamp], trainings: Sequence[Any], tests: Sequence[Any], needed: int
) -> dict[int, str]:
    """Periods that can decide nothing, for they have no row to decide on, or too few to train on.

    :param dates: opening times of the pair's candles
    :param trainings: what each period trains on, a TimeRange, as ``tests`` what it decides on
    :param needed: candles of the shortest training
    :return: the end of the training, seconds since 1970, which is FreqAI's number of the period, to words
    """
    left_out = {}
    for training, test in zip(trainings, tests, strict=True):
        n_train, n_test = (
            int(dates.between(part.startdt, part.stopdt, inclusive="left").sum()) for part in (training, test)
        )
        if not n_test:
            why = "no candle to decide on"
        elif n_train < needed:
            why = f"{n_train} candles to train on, {needed} needed"
        else:
            continue
        left_out[int(training.stopts)] = f"{test.startdt:%Y-%m-%d %H:%M} to {test.stopdt:%Y-%m-%d %H:%M} ({why})"
    return left_out


def neutral_rows(dates: pd.Series[pd.Timestamp], labels: Sequence[str]) -> pd.DataFrame:
    """No row, with the columns of FreqAI's predictions: it fills those of candles without a prediction with zeros.

    :param dates: of the strategy's frame, whose type the column keeps
    """
    columns = [*labels, *(f"{label}_{part}" for label in labels for part in ("mean", "std")), "do_predict"]
    return pd.DataFrame({"date": dates.iloc[:0], **{name: pd.Series(dtype=float) for name in columns}})
