"""Walk-forward, period by period: what its policy promised when it was chosen, and what it then earned."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.reporting.policies import SealedPeriod
from mtfscalper.reporting.run_result import DAY_MS
from mtfscalper.trading.trading_rules import TradingRules


class Stretch(NamedTuple):
    """What a policy earned on some candles.

    :ivar log_return: of the equity after costs
    :ivar days: how long they are
    """

    log_return: float
    trades: int
    days: float

    @property
    def a_day(self) -> float:
        """Log return of a day."""
        return self.log_return / self.days if self.days else 0.0


class EvaluationPoint(NamedTuple):
    """One evaluation during a training."""

    timesteps: int
    log_return: float
    trades: int


class PeriodResult(NamedTuple):
    """One period of one pair.

    :ivar first_ms: the first row that its policy decided on, milliseconds since 1970
    :ivar stop_ms: the first row that it no longer decided on
    :ivar training: its policy on the candles that it was trained on; None where its report does not say
    :ivar evaluation: its policy on the candles held out, by which it was chosen; None without an evaluation
    :ivar traded: on the candles after those
    :ivar classic: the same entries with classic exits
    :ivar gap_a_day: log return of a day that the evaluation promised, less what was traded: the overfitting; None
        where the policy did not end the trades
    :ivar evaluations: all of the training
    :ivar chosen_timesteps: of the evaluation by which the policy was chosen; None without one
    :ivar training_seconds: None where the report is lost, as ``timesteps``
    :ivar guarded: how its policy was judged beside classic exits, in words; None without ``rl_config.fallback``
    :ivar falls_back: whether it did not beat them, so that the rules ended its trades
    """

    pair: str
    first_ms: int
    stop_ms: int
    training: Stretch | None
    evaluation: Stretch | None
    traded: Stretch
    classic: Stretch
    gap_a_day: float | None
    evaluations: tuple[EvaluationPoint, ...]
    chosen_timesteps: int | None
    training_seconds: float | None
    timesteps: int | None
    guarded: str | None = None
    falls_back: bool = False


def period_results(
    periods: tuple[SealedPeriod, ...], trades: pd.DataFrame, classic: pd.DataFrame, timeframe_ms: int, last_ms: int
) -> tuple[PeriodResult, ...]:
    """Put each period's training beside what was traded by it.

    :param trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    :param classic: the same entries with classic exits
    :param last_ms: the last candle of the run
    """
    return tuple(_result(period, trades, classic, timeframe_ms, last_ms) for period in periods)


def entered_within(sealed: SealedPeriod, trades: pd.DataFrame, timeframe_ms: int) -> npt.NDArray[np.bool_]:
    """Which trades a period's policy decided to enter, shape (n_trades,).

    :param trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    """
    # A trade is entered at the open after the row that was decided on.
    rows, period = trades["open_ms"] - timeframe_ms, sealed.period
    within = (trades["pair"] == sealed.pair) & (rows >= period.first_ms) & (rows < period.stop_ms)
    return within.to_numpy(dtype=bool)


def days_of(sealed: SealedPeriod, last_ms: int) -> float:
    """How many days a period was traded.

    :param last_ms: the last candle of the run
    """
    return (min(sealed.period.stop_ms, last_ms) - sealed.period.first_ms) / DAY_MS


def _result(
    sealed: SealedPeriod, trades: pd.DataFrame, classic: pd.DataFrame, timeframe_ms: int, last_ms: int
) -> PeriodResult:
    period, report = sealed.period, sealed.report
    within, days = entered_within(sealed, trades, timeframe_ms), days_of(sealed, last_ms)
    traded, held = (_stretch(of[within], sealed.rules, days) for of in (trades, classic))
    training = evaluation = None
    if report is not None and report.training_evaluation:
        training = _told(report.training_evaluation, report.train_candles, timeframe_ms)
    if report is not None and report.best_evaluation:
        evaluation = _told(report.best_evaluation, report.evaluation_candles, timeframe_ms)
    return PeriodResult(
        pair=sealed.pair,
        first_ms=period.first_ms,
        stop_ms=period.stop_ms,
        training=training,
        evaluation=evaluation,
        traded=traded,
        classic=held,
        gap_a_day=None if evaluation is None or period.falls_back else evaluation.a_day - traded.a_day,
        evaluations=tuple(
            EvaluationPoint(int(one["timesteps"]), float(one["log_return"]), int(one["trades"]))
            for one in (report.evaluations if report else ())
        ),
        chosen_timesteps=int(report.best_evaluation["timesteps"]) if report and report.best_evaluation else None,
        training_seconds=report.seconds if report else None,
        timesteps=report.timesteps if report else None,
        guarded=report.judged.in_words() if report and report.judged else None,
        falls_back=period.falls_back,
    )


def _told(figures: dict[str, float], candles: int, timeframe_ms: int) -> Stretch:
    return Stretch(float(figures["log_return"]), int(figures["trades"]), candles * timeframe_ms / DAY_MS)


def _stretch(trades: pd.DataFrame, rules: TradingRules, days: float) -> Stretch:
    """What trades would have made of an account that stakes as in training: one trade after the other."""
    side = np.where(trades["is_short"], -1.0, 1.0)
    gains = trades["profit_ratio"].to_numpy() * rules.staked_ratio * (1 + side * trades["fee_ratio"].to_numpy())
    log_return = math.fsum(math.log(max(1 + gain, 1e-6)) for gain in gains)
    return Stretch(log_return, len(trades), days)
