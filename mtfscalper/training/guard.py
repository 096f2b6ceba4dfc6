"""The guard: a policy that does not beat classic exits on held-out trades lets the rules end its trades.

It is judged once, when its training is over, on folds that chose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.envs.episodes import candles_of
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.reliving import Entries, relive
from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.training.evaluation import play_segments
from mtfscalper.training.paired import paired
from mtfscalper.training.paired_result import PairedResult
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.request import TrainingRequest


def judged(job: TrainingRequest, model: BaseAlgorithm, report: TrainingReport) -> TrainingReport:
    """The report of a training with the judgement of its policy, where ``rl_config.fallback`` asks for one.

    :param job: that the policy was trained by
    """
    if job.settings.rl.fallback is None:
        return report
    return replace(report, judged=judge(job, model))


def judge(job: TrainingRequest, model: BaseAlgorithm) -> PairedResult:
    """A policy's trades on the folds that judge, beside the same entries re-lived with classic exits.

    Both end at the last open of a fold.
    """
    rules = job.env.rules
    trades: list[ClosedTrade] = []
    classic = [np.zeros(0)]
    for segment, result in play_segments(model, job.judging, job.env) if job.judging is not None else ():
        trades += result.trades
        classic.append(with_classic_exits(segment, rules, result.trades))
    return paired(
        np.array([trade.open_ms for trade in trades], dtype=np.int64),
        np.array([trade.profit_ratio for trade in trades]),
        np.concatenate(classic),
        max_trade_ms=int(rules.max_trade_duration_candles * rules.timeframe_minutes * 60_000),
    )


def with_classic_exits(tape: MarketTape, rules: TradingRules, trades: Sequence[ClosedTrade]) -> npt.NDArray[np.float64]:
    """The profit ratios that trades would have had if nobody but the rules had ended them, shape (n_trades,).

    :param tape: that they were made on, without gaps
    """
    entries = Entries(
        is_short=np.array([trade.is_short for trade in trades], dtype=bool),
        first=np.searchsorted(tape.dates_ms, [trade.open_ms for trade in trades]),
        open_rate=np.array([trade.open_rate for trade in trades]),
    )
    return relive(entries, candles_of([tape]), rules).profit_ratio
