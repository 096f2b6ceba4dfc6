"""Reward: named terms and their weights.

The default is the net log-return of equity after costs, alone: over an episode it adds up to the logarithm of the
final equity. Every other term shapes behaviour and has weight 0 until ``model_reward_parameters`` sets it.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mtfscalper.trading.arrays import Namespace
from mtfscalper.trading.rules import Account, ExitReason, Fill

_Weight = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class RewardSettings(BaseModel):
    """``freqai.rl_config.model_reward_parameters``: three stock keys and a weight for every term."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rr: _Positive = Field(1.0, description="risk to reward: profits above `rr` × `profit_aim` count as wins")
    profit_aim: _Positive = Field(0.025, description="profit ratio aimed at, the unit of profit terms")
    win_reward_factor: _Positive = Field(2.0, description="factor of profit_quality on wins")
    equity_weight: _Weight = Field(
        1.0,
        description="weight of the log of equity after over before, after costs. Alone, an episode adds up to the log "
        "of final equity",
    )
    profit_quality_weight: _Weight = Field(
        0.0,
        description="weight of profit / `profit_aim` at an exit. Times `win_reward_factor` above `rr` × `profit_aim`",
    )
    drawdown_weight: _Weight = Field(0.0, description="weight of minus the distance from the trade's best profit")
    timing_weight: _Weight = Field(
        0.0,
        description="weight of how near the favourable end of the last `timing_candles` candles' range a trade is "
        "entered and left",
    )
    duration_weight: _Weight = Field(
        0.0, description="weight of minus the share of the longest duration that the trade has lasted"
    )
    invalid_weight: _Weight = Field(0.0, description="weight of minus 1 for an impossible action")
    idle_weight: _Weight = Field(0.0, description="weight of minus 1 for declining a permitted entry")
    timing_candles: Annotated[int, Field(ge=2)] = Field(48, description="candles of the range that timing looks at")


class Transition(NamedTuple):
    """One candle as the reward sees it.

    :ivar before: account at the candle's open, before the action
    :ivar after: account after the candle
    :ivar profit_after: profit ratio of a still open trade at the next open, else 0
    :ivar equity_before: equity marked at the candle's open
    :ivar equity_after: equity marked at the next open
    :ivar accepted: whether the rules could carry out the action
    :ivar declined: whether an entry was permitted and not taken
    :ivar range_position: place of the candle's open in the recent range, 0 its low, 1 its high
    """

    before: Account
    after: Account
    fill: Fill
    profit_after: Any
    equity_before: Any
    equity_after: Any
    accepted: Any
    declined: Any
    range_position: Any


REWARD_TERMS = ("equity", "profit_quality", "drawdown", "timing", "duration", "invalid", "idle")


def reward_terms(
    xp: Namespace, settings: RewardSettings, max_trade_duration_candles: int, transition: Transition
) -> dict[str, Any]:
    """Every term of :data:`REWARD_TERMS` whose weight is not 0, weighted.

    ===============  ==========================================================================================
    equity           log(equity after / equity before), costs included
    profit_quality   at an exit: profit / profit_aim, times win_reward_factor above rr x profit_aim
    drawdown         in a trade: minus the distance from its best profit, in profit_aim
    timing           at an entry and at an exit by signal: how near the favourable end of the range, -0.5 to 0.5
    duration         in a trade: minus the share of the longest duration held
    invalid          minus 1 for an action that cannot be done
    idle             minus 1 for declining a permitted entry
    ===============  ==========================================================================================
    """
    terms: dict[str, Any] = {}
    after, fill = transition.after, transition.fill
    holds = after.side != 0
    if settings.equity_weight:
        terms["equity"] = settings.equity_weight * xp.log(transition.equity_after / transition.equity_before)
    if settings.profit_quality_weight:
        quality = fill.profit_ratio / settings.profit_aim
        win = fill.profit_ratio > settings.rr * settings.profit_aim
        quality = xp.where(win, settings.win_reward_factor * quality, quality)
        terms["profit_quality"] = settings.profit_quality_weight * xp.where(fill.exited, quality, 0.0)
    if settings.drawdown_weight:
        fallen = xp.maximum(after.best_profit - transition.profit_after, 0.0) / settings.profit_aim
        terms["drawdown"] = -settings.drawdown_weight * xp.where(holds, fallen, 0.0)
    if settings.timing_weight:
        terms["timing"] = settings.timing_weight * _timing(xp, transition)
    if settings.duration_weight:
        share = after.held_candles / max_trade_duration_candles
        terms["duration"] = -settings.duration_weight * xp.where(holds, share, 0.0)
    if settings.invalid_weight:
        terms["invalid"] = -settings.invalid_weight * xp.where(transition.accepted, 0.0, 1.0)
    if settings.idle_weight:
        terms["idle"] = -settings.idle_weight * xp.where(transition.declined, 1.0, 0.0)
    return terms


def _timing(xp: Namespace, transition: Transition) -> Any:
    fill = transition.fill
    # A trade entered and stopped within one candle leaves its side in the fill only.
    entered_side = xp.where(fill.exited, fill.side, transition.after.side)
    # Cheap is good for buying: entering long, leaving short.
    cheapness = 0.5 - transition.range_position
    at_entry = xp.where(fill.entered, entered_side * cheapness, 0.0)
    by_signal = fill.reason == ExitReason.EXIT_SIGNAL
    return xp.where(by_signal, -fill.side * cheapness, at_entry)
