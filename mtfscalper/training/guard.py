"""The guard: a policy that does not beat classic exits on held-out trades lets the rules end its trades.

It is judged once, when its training is over, on folds that chose nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.policy.classic_exits import Entry, relive
from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.training.evaluation import play_segments
from mtfscalper.training.paired import paired
from mtfscalper.training.paired_result import PairedResult
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.request import TrainingRequest

logger = logging.getLogger(__name__)


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
    ours: list[ClosedTrade] = []
    theirs: list[ClosedTrade] = []
    rules = job.env.rules
    for segment, result in play_segments(model, job.judging, job.env) if job.judging is not None else ():
        ours += result.trades
        theirs += relive(segment, rules, [Entry(trade.open_ms, trade.is_short) for trade in result.trades])
    max_trade_ms = int(rules.max_trade_duration_candles * rules.timeframe_minutes * 60_000)
    return paired(ours, theirs, max_trade_ms)
