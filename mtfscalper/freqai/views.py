"""What a chart shows of the policy: the columns that the last backtest sealed, and what it decided about its trades.

Nothing is trained, nothing is written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.enums import RunMode
from freqtrade.strategy import IStrategy

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive, why_not_that_version
from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN, KNOWN_COLUMNS
from mtfscalper.freqai.decision_record import newest_decisions, records_folder
from mtfscalper.freqai.run_plan import DecisionsError, RunPlan
from mtfscalper.seals import Seals
from mtfscalper.trading.actions import Action

logger = logging.getLogger(__name__)

_LOOKING_MODES = (RunMode.PLOT, RunMode.WEBSERVER)


def may_be_view(config: Mapping[str, Any]) -> bool:
    """Whether the run mode is one that charts are drawn in: ``plot-dataframe``, and FreqUI's webserver.

    :param config: the freqtrade config, with its run mode
    """
    return config.get("runmode") in _LOOKING_MODES


def is_view(config: Mapping[str, Any], strategy: IStrategy) -> bool:
    """Whether a strategy's frame is made for a look at it, and not to trade or to backtest on.

    :param config: the freqtrade config, with its run mode
    :param strategy: with its data provider
    """
    # freqtrade gives every Backtesting a pair list, in whatever run mode, and the frame of a chart none.
    return may_be_view(config) and strategy.dp is not None and strategy.dp._pairlists is None


class SealedColumns(NamedTuple):
    """What the last backtest of a pair decided.

    :ivar frame: ``date`` and the columns as FreqAI would append them; empty where there are none
    :ivar missing: why periods of that backtest, or all of it, cannot be shown
    :ivar plan: the name of its plan, None where there is none
    """

    frame: pd.DataFrame
    missing: list[str]
    plan: str | None = None

    @classmethod
    def from_archive(cls, archive: Archive, pair: str, seals: Seals) -> SealedColumns:
        """Read them.

        :param archive: of the identifier
        :param seals: of the user directory
        """
        try:
            plan = RunPlan.newest(archive, pair)
        except DecisionsError as error:
            return cls(_neutral_columns(), [str(error)])
        return cls.of_plan(plan, archive, seals)

    @classmethod
    def of_plan(cls, plan: RunPlan, archive: Archive, seals: Seals) -> SealedColumns:
        """Read those of a plan's periods.

        :param archive: of the identifier
        :param seals: of the user directory
        """
        frames, missing = [], []
        for period in plan.periods:
            version = archive.root / period.folder
            stale: str | None = None
            for folder in (version, *archive.in_freqais_folder(version)):
                reason = why_not_that_version(version, ("predictions",), seals, folder)
                if reason is None:
                    frames.append(pd.read_feather(artefacts.sealed_path(folder, "predictions")))
                    break
                stale = stale or reason
            else:
                missing.append(f"{version.parent.name}: {stale}")
        return cls(pd.concat(frames, ignore_index=True) if frames else _neutral_columns(), missing, plan.name)


def _neutral_columns() -> pd.DataFrame:
    """Every column that a backtest could have left, without rows."""
    names = [f"{name}{suffix}" for name in KNOWN_COLUMNS for suffix in ("", "_mean", "_std")]
    columns = {name: pd.Series(dtype=float) for name in (*names, "do_predict")}
    return pd.DataFrame({"date": pd.Series(dtype="datetime64[ms, UTC]"), **columns})


def with_sealed_columns(
    frame: pd.DataFrame, pair: str, config: Mapping[str, Any], trust_models: Sequence[str] = ()
) -> pd.DataFrame:
    """A strategy's frame as a backtest would leave it, from files alone.

    Rows that the last backtest did not decide on are neutral, with ``do_predict`` 0; one line says what to run. Where
    it had asked about an open trade, the row before shows that decision instead of the one of a flat account.

    :param frame: one row a candle, with ``date``
    :param config: the freqtrade config
    """
    seals = Seals(Path(config["user_data_dir"]), trust_models)
    sealed = SealedColumns.from_archive(Archive.from_config(config), pair, seals)
    decided = [name for name in sealed.frame.columns if name != "date"]
    own = [name for name in frame.columns if not name.startswith(("&", "%")) and name not in decided]
    shown = frame[own].merge(sealed.frame, on="date", how="left", validate="one_to_one")
    shown[decided] = shown[decided].fillna(0)
    _tell(frame["date"], sealed, pair, config)
    if sealed.plan is not None:
        asked = newest_decisions(records_folder(config), pair, sealed.plan)
        if asked is not None:
            _show_decisions(shown, asked)
            n_left = int(asked["leave"].sum())
            logger.info("%s: %d decisions about open trades are shown, %d of them to leave.", pair, len(asked), n_left)
    return shown


def _show_decisions(shown: pd.DataFrame, asked: pd.DataFrame) -> None:
    """Put decisions about open trades into the rows that they were made on, as ``replay`` mode has them.

    :param shown: one row a candle; changed in place
    :param asked: the record of a backtest, see :mod:`mtfscalper.freqai.decision_record`
    """
    # A decision at the open of a candle was made on the row before it. Of several trades, one that is left counts.
    last = asked.sort_values("leave", kind="stable").drop_duplicates("candle", keep="last")
    rows = last["candle"].map(dict(zip(shown["date"].iloc[1:], shown.index[:-1], strict=True)))
    last = last[rows.notna()]
    leaves = last["side"].map({"long": Action.LONG_EXIT, "short": Action.SHORT_EXIT}).where(last["leave"], 0)
    for column, values in ((ACTION_COLUMN, leaves), (EXIT_COLUMN, last["probability"])):
        if column in shown:
            shown.loc[rows.dropna().astype(int).to_numpy(), column] = values.to_numpy(dtype=float)


def _tell(dates: pd.Series[pd.Timestamp], sealed: SealedColumns, pair: str, config: Mapping[str, Any]) -> None:
    asked = dates[_inside(dates, config)]
    n_neutral = int((~asked.isin(sealed.frame["date"])).sum())
    if not n_neutral:
        logger.info("%s: the policy's columns are those of the last backtest; a view trains nothing.", pair)
        return
    day = pd.Timedelta(days=1)
    logger.warning(
        "%s: the last backtest decided on %d of %d candles%s; the others are shown neutral, with do_predict 0, because "
        "a view trains nothing. To see decisions there, run: freqtrade backtesting --timerange %s-%s, with the "
        "configuration, strategy and model of this view.",
        pair,
        len(asked) - n_neutral,
        len(asked),
        f" ({'; '.join(sealed.missing)})" if sealed.missing else "",
        f"{asked.min():%Y%m%d}",
        f"{asked.max() + day:%Y%m%d}",
    )


def _inside(dates: pd.Series[pd.Timestamp], config: Mapping[str, Any]) -> pd.Series[bool]:
    """Which candles are of the config's timerange: freqtrade loads those of the indicators' warm-up too."""
    timerange = TimeRange.parse_timerange(config.get("timerange"))
    inside = dates == dates
    if timerange.startdt is not None:
        inside &= dates >= timerange.startdt
    if timerange.stopdt is not None:
        inside &= dates < timerange.stopdt
    return inside
